//! Calls that change something or show messages.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::{Problem, Shared};
use crate::cli::operate::answer::{
    DropRequest, Forgotten, Letter, LetterFilter, Letters, Paused, ReplayRequest, RewindRequest, Rewound,
    Taken,
};

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

pub(super) async fn forget(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<Forgotten> {
    no_body(body)?;
    Ok(Json(shared.gateway.operations.forget(&name).await?))
}

pub(super) async fn dead_letters(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Answer<Letters> {
    let filter = filter(query.as_deref().unwrap_or_default())?;
    Ok(Json(shared.gateway.operations.dead_letters(&filter).await?))
}

pub(super) async fn dead_letter(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<Letter> {
    let expected = || wrong(format!("`{}` is no dead letter\'s number", id.escape_debug()));
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

fn json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let body = body.map_err(|rejection| Problem(rejection.status(), rejection.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| wrong(format!("the body: {error}; expected a JSON object")))
}

fn no_body(body: Body) -> Result<(), Problem> {
    match body {
        Ok(body) if body.is_empty() => Ok(()),
        _ => Err(wrong("there is a body; expected none".to_owned())),
    }
}

/// `stream`, `reason`, `since` and `limit`, each at most once.
fn filter(query: &str) -> Result<LetterFilter, Problem> {
    let mut filter = LetterFilter::default();
    let mut limit = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let field = match &*name {
            "stream" => &mut filter.stream,
            "reason" => &mut filter.reason,
            "since" => &mut filter.since,
            "limit" => &mut limit,
            _ => {
                let name = name.escape_debug();
                return Err(wrong(format!(
                    "unknown `{name}`; expected `stream`, `reason`, `since`, `limit`"
                )));
            }
        };
        if field.replace(value.into_owned()).is_some() {
            return Err(wrong(format!("`{name}` is there twice; expected it once")));
        }
    }
    if let Some(limit) = limit {
        let number = limit
            .parse()
            .map_err(|_| wrong(format!("`limit` is `{}`; expected a number", limit.escape_debug())))?;
        filter.limit = Some(number);
    }
    Ok(filter)
}
