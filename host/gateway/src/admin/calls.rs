//! Calls that change something or show messages.

use admin_api::answer::{
    DropRequest, Forgotten, Letter, LetterFilter, Letters, Messages, Paused, Plan, ReplayRequest,
    RewindRequest, Rewound, RollbackRequest, ScriptChange, Taken, Versions,
};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::{Problem, Shared};
use crate::operate::script::USUAL_MESSAGES;

type Answer<T> = Result<Json<T>, Problem>;
/// A body as it came, or why it did not.
type Body = Result<Bytes, BytesRejection>;

pub(super) async fn only_with_token(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && shared.token.is(token.trim()) => {
            next.run(request).await
        }
        _ => {
            let expected = "this needs the token: the header `Authorization: Bearer TOKEN` with the content of \
                            admin.token in the data folder";
            let problem = Problem(StatusCode::UNAUTHORIZED, expected.to_owned());
            ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
        }
    }
}

pub(super) async fn pause(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<Paused> {
    no_body(body)?;
    Ok(Json(shared.gateway.operations.pause(&name, true).await?))
}

pub(super) async fn resume(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<Paused> {
    no_body(body)?;
    Ok(Json(shared.gateway.operations.pause(&name, false).await?))
}

pub(super) async fn rewind(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<Rewound> {
    let request: RewindRequest = json(body)?;
    Ok(Json(shared.gateway.operations.rewind(&name, request).await?))
}

pub(super) async fn reload(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<ScriptChange> {
    no_body(body)?;
    Ok(Json(shared.gateway.operations.reload(&name).await?))
}

pub(super) async fn update(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<ScriptChange> {
    no_body(body)?;
    Ok(Json(shared.gateway.operations.update(&name).await?))
}

pub(super) async fn roll_back(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<ScriptChange> {
    let body = received(body)?;
    let RollbackRequest { to } = match body.is_empty() {
        true => RollbackRequest { to: None },
        false => json(Ok(body))?,
    };
    Ok(Json(shared.gateway.operations.roll_back(&name, to).await?))
}

/// The body is a script as it is; none: what the stream's source has now.
pub(super) async fn compare(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<ScriptChange> {
    let wasm = received(body)?;
    let wasm = Some(wasm).filter(|wasm| !wasm.is_empty());
    Ok(Json(shared.gateway.operations.compare(&name, wasm).await?))
}

pub(super) async fn versions(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<Versions> {
    Ok(Json(shared.gateway.operations.versions(&name).await?))
}

pub(super) async fn messages(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Answer<Messages> {
    let [stream, key, last] = parameters(query.as_deref().unwrap_or_default(), ["stream", "key", "last"])?;
    let last = number("last", last)?.unwrap_or(USUAL_MESSAGES);
    Ok(Json(shared.gateway.operations.messages(stream.as_deref(), key, last).await?))
}

pub(super) async fn forget(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<Forgotten> {
    no_body(body)?;
    Ok(Json(shared.gateway.operations.forget(&name).await?))
}

pub(super) async fn plan(State(shared): State<Shared>, body: Body) -> Answer<Plan> {
    no_body(body)?;
    Ok(Json(shared.gateway.plan().await?))
}

pub(super) async fn apply(State(shared): State<Shared>, body: Body) -> Answer<Plan> {
    no_body(body)?;
    Ok(Json(shared.gateway.apply().await?))
}

pub(super) async fn dead_letters(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Answer<Letters> {
    let filter = filter(query.as_deref().unwrap_or_default())?;
    Ok(Json(shared.gateway.operations.dead_letters(&filter).await?))
}

pub(super) async fn dead_letter(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<Letter> {
    let expected = || wrong(format!("`{}` is not the number of a dead letter", id.escape_debug()));
    let id = id.parse().map_err(|_| expected())?;
    Ok(Json(shared.gateway.operations.dead_letter(id).await?))
}

pub(super) async fn replay(State(shared): State<Shared>, body: Body) -> Answer<Taken> {
    let request: ReplayRequest = json(body)?;
    Ok(Json(shared.gateway.operations.replay(&request.filter, request.as_is).await?))
}

pub(super) async fn drop_dead_letters(State(shared): State<Shared>, body: Body) -> Answer<Taken> {
    let request: DropRequest = json(body)?;
    Ok(Json(shared.gateway.operations.drop_dead_letters(&request.filter).await?))
}

fn wrong(text: String) -> Problem {
    Problem(StatusCode::BAD_REQUEST, text)
}

fn received(body: Body) -> Result<Bytes, Problem> {
    body.map_err(|rejection| Problem(rejection.status(), rejection.body_text()))
}

fn json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    serde_json::from_slice(&received(body)?)
        .map_err(|error| wrong(format!("the body: {error}; expected a JSON object")))
}

fn no_body(body: Body) -> Result<(), Problem> {
    match body {
        Ok(body) if body.is_empty() => Ok(()),
        _ => Err(wrong("there is a body; expected none".to_owned())),
    }
}

fn filter(query: &str) -> Result<LetterFilter, Problem> {
    let [stream, reason, since, limit] = parameters(query, ["stream", "reason", "since", "limit"])?;
    Ok(LetterFilter { stream, reason, since, limit: number("limit", limit)?, ..LetterFilter::default() })
}

/// What the query says of these, each at most once, and of nothing else.
fn parameters<const N: usize>(query: &str, known: [&str; N]) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let named = known.iter().zip(&mut values).find(|(known, _)| **known == name);
        let Some((_, place)) = named else {
            let known = known.map(|known| format!("`{known}`")).join(", ");
            return Err(wrong(format!("unknown `{}`; expected {known}", name.escape_debug())));
        };
        if place.replace(value.into_owned()).is_some() {
            return Err(wrong(format!("`{name}` is there twice; expected it once")));
        }
    }
    Ok(values)
}

fn number(name: &str, text: Option<String>) -> Result<Option<usize>, Problem> {
    let parse = |text: String| {
        text.parse().map_err(|_| wrong(format!("`{name}` is `{}`; expected a number", text.escape_debug())))
    };
    text.map(parse).transpose()
}
