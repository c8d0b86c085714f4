#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use admin_api::answer::{LetterFilter, RewindRequest};
use admin_api::token;
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use journal::StreamIndex;
use serde_json::{Value, json};
use settings::StreamEntry;
use stream::StreamStatus;

use super::super::streams::Streams;
use super::*;
use crate::certificates::Certificates;
use crate::operate::Target;
use crate::operate::testing::Site;

/// A listener with a journal behind it, and no gateway in between.
struct Admin {
    site: Site,
    address: SocketAddr,
    token: AdminToken,
    stop: tokio_util::sync::DropGuard,
}

impl Admin {
    async fn start() -> Self {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let site = Site::new(address).await;
        let mut next = 0;
        let streams = site.config.streams.iter().map(|entry| match entry {
            StreamEntry::Ready(settings) => {
                next += 1;
                StreamStatus::new(&settings.name, StreamIndex(next - 1))
            }
            StreamEntry::Unusable { name, .. } => {
                StreamStatus::unusable(name, format!("no topics{}", "ü".repeat(pages::MAX_TEXT)))
            }
        });
        let statuses = streams.map(Arc::new).collect();
        let gateway = Arc::new(Gateway {
            journal: site.journal.clone(),
            bus: Arc::default(),
            streams: Streams::listed(site.config.clone(), site.journal.clone(), statuses),
            operations: site.operations(),
            certificates: Arc::new(Certificates::new(vec![])),
        });
        let token = AdminToken::read_or_make(&site.config.data).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, gateway, Metrics::unused(), token.clone(), stop.clone()));
        Self { site, address, token, stop: stop.drop_guard() }
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| text()))
    }

    async fn with_token(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
        self.ask(method, path, &[("authorization", &self.token.header())], body).await
    }

    async fn target(&self) -> Target {
        let target = Target::find(Some(&self.site.config.path)).await.unwrap();
        assert!(matches!(target, Target::Running(_)));
        target
    }
}

fn error(answer: &Value) -> &str {
    answer["error"].as_str().unwrap()
}

#[test]
fn only_loopback_hosts_are_answered() {
    for good in ["localhost", "localhost:8080", "127.0.0.1:8080", "127.3.4.5", "[::1]:8080", "[::1]"] {
        assert!(is_loopback(good), "{good}");
    }
    for bad in ["", "example.org", "example.org:8080", "10.0.0.1:8080", "127.0.0.1.example.org", "::2"] {
        assert!(!is_loopback(bad), "{bad}");
    }
}

#[tokio::test]
async fn foreign_host_is_rejected_even_with_token() {
    let admin = Admin::start().await;
    let headers = [("host", "rebound.example"), ("authorization", &admin.token.header())];
    for path in ["/streams", "/dead-letters", "/nothing"] {
        let (status, answer) = admin.ask(Method::GET, path, &headers, "").await;
        assert_eq!((status, error(&answer)), (403, "the Host header must name a loopback address"));
    }
    drop(admin.stop);
}

#[tokio::test]
async fn changes_and_messages_need_the_token() {
    let admin = Admin::start().await;
    let calls = [
        (Method::POST, "/streams/yard/pause"),
        (Method::POST, "/streams/yard/resume"),
        (Method::POST, "/streams/yard/rewind"),
        (Method::DELETE, "/streams/yard"),
        (Method::POST, "/streams/yard/reload"),
        (Method::POST, "/streams/yard/update"),
        (Method::POST, "/streams/yard/rollback"),
        (Method::POST, "/streams/yard/compare"),
        (Method::GET, "/streams/yard/versions"),
        (Method::GET, "/messages"),
        (Method::POST, "/plan"),
        (Method::POST, "/apply"),
        (Method::GET, "/dead-letters"),
        (Method::GET, "/dead-letters/0"),
        (Method::POST, "/dead-letters/replay"),
        (Method::POST, "/dead-letters/drop"),
    ];
    let right = admin.token.header();
    let wrong = [
        String::new(),
        "Bearer".to_owned(),
        format!("Bearer {}", "0".repeat(64)),
        right.replace("Bearer", "Basic"),
        right[..right.len() - 1].to_owned(),
    ];
    for (method, path) in calls {
        for authorization in &wrong {
            let headers = [("authorization", authorization.as_str())];
            let headers = if authorization.is_empty() { &[][..] } else { &headers[..] };
            let (status, answer) = admin.ask(method.clone(), path, headers, "").await;
            assert_eq!(status, 401, "{method} {path} {authorization}");
            assert!(error(&answer).contains("Authorization: Bearer"), "{answer}");
        }
    }
    assert!(!*admin.site.journal.paused(StreamIndex(1)).borrow());
    for open in ["/healthz", "/readyz", "/streams", "/journal", "/metrics"] {
        let (status, answer) = admin.ask(Method::GET, open, &[], "").await;
        assert!(status == 200 || open == "/readyz", "{open}");
        assert!(!answer.to_string().contains("half"), "{open} shows a message");
    }
}

/// The longest text in an answer.
fn longest(answer: &Value) -> &str {
    let longest = match answer {
        Value::String(text) => Some(&**text),
        Value::Array(entries) => entries.iter().map(longest).max_by_key(|text| text.len()),
        Value::Object(entries) => entries.values().map(longest).max_by_key(|text| text.len()),
        _ => None,
    };
    longest.unwrap_or_default()
}

#[tokio::test]
async fn pages_without_a_token_cut_what_they_quote() {
    let admin = Admin::start().await;
    for page in ["/streams", "/readyz"] {
        let (_, answer) = admin.ask(Method::GET, page, &[], "").await;
        let text = longest(&answer);
        assert!(text.contains("no topics") && text.ends_with("ü…"), "{page}: {text}");
        assert!(text.len() <= pages::MAX_TEXT + "…".len(), "{page}: {} bytes", text.len());
    }
    drop(admin.stop);
}

#[tokio::test]
async fn metrics_have_block_code_and_latency() {
    let admin = Admin::start().await;
    let (_, streams) = admin.ask(Method::GET, "/streams", &[], "").await;
    let of = |name: &str| streams.as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone();
    assert_eq!((&of("broken")["code"], &of("yard")["code"]), (&json!("configuration"), &Value::Null));
    let (_, text) = admin.ask(Method::GET, "/metrics", &[], "").await;
    let text = text.as_str().unwrap();
    assert!(text.contains("# TYPE sluicegate_ack_latency_seconds histogram\n"), "{text}");
    assert!(text.contains("sluicegate_ack_latency_seconds_count{stream=\"yard\"} 0\n"), "{text}");
    assert!(!text.contains("sluicegate_ack_latency_seconds_count{stream=\"broken\"}"), "{text}");
}

#[tokio::test]
async fn streams_are_paused_and_resumed() {
    let admin = Admin::start().await;
    let answer = admin.with_token(Method::POST, "/streams/yard/pause", "").await;
    assert_eq!(answer, (200, json!({ "stream": "yard", "paused": true })));
    let (_, streams) = admin.ask(Method::GET, "/streams", &[], "").await;
    assert_eq!((&streams[2]["name"], &streams[2]["paused"]), (&json!("yard"), &json!(true)));
    assert_eq!(streams[2]["books_balance"], true);
    let answer = admin.with_token(Method::POST, "/streams/yard/resume", "").await;
    assert_eq!(answer, (200, json!({ "stream": "yard", "paused": false })));
    for (path, status, words) in [
        ("/streams/yarn/pause", 404, "did you mean `yard`?"),
        ("/streams/broken/pause", 409, "cannot be used"),
        ("/streams/yard%20/pause", 404, "did you mean `yard`?"),
    ] {
        let (found, answer) = admin.with_token(Method::POST, path, "").await;
        assert!(found == status && error(&answer).contains(words), "{path}: {found} {answer}");
    }
}

#[tokio::test]
async fn bodies_are_checked() {
    let admin = Admin::start().await;
    let long = format!("{{\"filter\":{{\"reason\":\"{}\"}}}}", "x".repeat(MAX_BODY));
    for (path, body, status, words) in [
        ("/streams/yard/pause", "{}", 400, "expected none"),
        ("/streams/yard/rewind", "", 400, "expected a JSON object"),
        ("/streams/yard/rewind", "{\"to\":\"1h\",\"frm\":1}", 400, "unknown field `frm`"),
        ("/streams/yard/rewind", "{\"to\":\"1h\",\"to\":\"2h\"}", 400, "duplicate field `to`"),
        ("/streams/yard/rewind", "{}", 400, "missing field `to`"),
        ("/streams/yard/reload", "{}", 400, "expected none"),
        ("/streams/yarn/reload", "", 404, "did you mean `yard`?"),
        ("/streams/yard/update", "", 409, "no gateway is running"),
        ("/streams/yard/rollback", "", 409, "no gateway is running"),
        ("/streams/yard/rollback", "1", 400, "expected a JSON object"),
        ("/streams/yard/rollback", "{\"version\":\"1\"}", 400, "unknown field `version`"),
        ("/streams/yard/compare", "x", 409, "no gateway is running"),
        ("/dead-letters/replay", "{}", 400, "missing field `filter`"),
        ("/dead-letters/replay", "{\"filter\":{\"id\":1}}", 400, "unknown field `id`"),
        ("/dead-letters/drop", "{\"filter\":{},\"as_is\":true}", 400, "unknown field `as_is`"),
        ("/dead-letters/drop", "{\"filter\":{\"stream\":\"yrd\"}}", 404, "did you mean `yard`?"),
        ("/dead-letters/drop", &long, 413, "length limit"),
    ] {
        let (found, answer) = admin.with_token(Method::POST, path, body).await;
        assert!(found == status && error(&answer).contains(words), "{path}: {found} {answer}");
    }
    let (status, answer) = admin.with_token(Method::DELETE, "/streams/yard", "").await;
    assert!(status == 409 && error(&answer).contains("has a file"), "{answer}");
    for (method, path, status) in [(Method::GET, "/nothing", 404), (Method::PUT, "/dead-letters", 405)] {
        let (found, answer) = admin.with_token(method, path, "").await;
        assert_eq!(found, status);
        assert!(!error(&answer).is_empty());
    }
}

#[tokio::test]
async fn plan_of_invalid_files_lists_all_errors() {
    let admin = Admin::start().await;
    for path in ["/plan", "/apply"] {
        let (status, answer) = admin.with_token(Method::POST, path, "").await;
        assert_eq!(status, 409, "{answer}");
        for words in [
            "streams/broken.toml:1:10: `topics` is empty",
            "meanwhile: no change applied; the running configuration is kept",
        ] {
            assert!(error(&answer).contains(words), "{words}: {answer}");
        }
        let (status, answer) = admin.with_token(Method::POST, path, "{}").await;
        assert!(status == 400 && error(&answer).contains("expected none"), "{answer}");
    }
    std::fs::remove_file(admin.site.config.stream_folder().join("broken.toml")).unwrap();
    let (status, answer) = admin.with_token(Method::POST, "/plan", "").await;
    let line = |stream: &str, change: &str| json!({ "stream": stream, "change": change, "keys": [], "script": null });
    let streams = [line("broken", "orphaned"), line("fleet-to-web", "unchanged"), line("yard", "unchanged")];
    let expected = json!({ "applied": false, "streams": streams, "restart": [], "waiting": null });
    assert_eq!((status, answer), (200, expected));
}

#[tokio::test]
async fn dead_letters_are_listed_and_shown() {
    let admin = Admin::start().await;
    let (status, all) = admin.with_token(Method::GET, "/dead-letters", "").await;
    assert_eq!(
        (status, all["dead_letters"].as_array().unwrap().len(), &all["more"]),
        (200, 3, &json!(false))
    );
    let query = "/dead-letters?stream=fleet-to-web&reason=400+Bad&since=2023-11-14T22:13:20Z&limit=5";
    let (_, some) = admin.with_token(Method::GET, query, "").await;
    let expected = json!({
        "id": 0,
        "stream": "fleet-to-web",
        "at": 1_700_000_000_000_u64,
        "reason": "it was refused",
        "reply": "400 Bad Request: no",
        "script": "http-json 0123",
        "position": "0/0",
        "topic": "fleet/9",
        "received_at": 1_700_000_000_000_u64,
        "payload": "{\"ident\":1}",
        "delivery": { "target": null, "headers": [["x-a", "b"]], "body": "{}" },
    });
    assert_eq!(some, json!({ "dead_letters": [expected], "more": false }));
    assert_eq!(admin.with_token(Method::GET, "/dead-letters/0", "").await, (200, expected));
    for (path, status, words) in [
        ("/dead-letters/9", 404, "dead letter 9 does not exist"),
        ("/dead-letters/x", 400, "`x` is not the number of a dead letter"),
        ("/dead-letters?limit=x", 400, "`limit` is `x`"),
        ("/dead-letters?limit=5000", 400, "expected 1 to 1000"),
        ("/dead-letters?strm=a", 400, "unknown `strm`"),
        ("/dead-letters?stream=yard&stream=yard", 400, "twice"),
        ("/dead-letters?since=soon", 400, "`since` is `soon`"),
    ] {
        let (found, answer) = admin.with_token(Method::GET, path, "").await;
        assert!(found == status && error(&answer).contains(words), "{path}: {found} {answer}");
    }
}

#[tokio::test]
async fn last_messages_are_shown() {
    let admin = Admin::start().await;
    let of = async |query: &str| {
        let (status, answer) = admin.with_token(Method::GET, &format!("/messages{query}"), "").await;
        assert_eq!(status, 200, "{answer}");
        let messages = answer["messages"].as_array().unwrap().clone();
        messages.into_iter().map(|message| message["topic"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("?stream=yard").await, ["yard"]);
    // Without the field that its key is, a message has its topic as key.
    assert_eq!(of("?stream=yard&key=yard").await, ["yard"]);
    assert_eq!(of("?stream=yard&key=7").await, [""; 0]);
    assert_eq!(of("?stream=fleet-to-web").await, ["fleet/9"; 3]);
    assert_eq!(of("?key=yard&last=5").await, ["yard"]);
    for (query, status, words) in [
        ("?stream=yarn", 404, "did you mean `yard`?"),
        ("?last=0", 400, "expected 1 to 1000"),
        ("?last=x", 400, "`last` is `x`; expected a number"),
        ("?keys=1", 400, "unknown `keys`; expected `stream`, `key`, `last`"),
    ] {
        let (found, answer) = admin.with_token(Method::GET, &format!("/messages{query}"), "").await;
        assert!(found == status && error(&answer).contains(words), "{query}: {found} {answer}");
    }
}

#[tokio::test]
async fn target_finds_gateway_and_token() {
    let admin = Admin::start().await;
    let target = admin.target().await;
    assert_eq!(target.streams().await.unwrap().len(), 3);
    assert_eq!(target.journal().await.unwrap().messages, 1);
    assert!(target.pause("yard", true).await.unwrap().paused);
    assert!(*admin.site.journal.paused(StreamIndex(1)).borrow());
    assert!(!target.pause("yard", false).await.unwrap().paused);
    assert_eq!(target.versions("yard").await.unwrap().versions, []);
    assert_eq!(target.messages(Some("yard"), None, 3).await.unwrap().messages.len(), 1);
    let filter = LetterFilter { reason: Some("400 Bad Request: no".to_owned()), ..LetterFilter::default() };
    let found = target.dead_letters(&filter).await.unwrap();
    assert_eq!(found.dead_letters, [target.dead_letter(0).await.unwrap()]);
    let request = RewindRequest {
        to: "1h".to_owned(),
        until: None,
        keys: None,
        rate: None,
        keep_state: false,
        dry_run: true,
    };
    let refused = [
        (target.pause("a/b c", true).await.map(drop), "no stream `a/b c`"),
        (target.forget("yard").await.map(drop), "has a file"),
        (target.reload("yard").await.map(drop), "no gateway is running"),
        (target.update("yard").await.map(drop), "no gateway is running"),
        (target.roll_back("yard", None).await.map(drop), "no gateway is running"),
        (target.compare("yard", Some(Bytes::from_static(b"x"))).await.map(drop), "no gateway is running"),
    ];
    for (result, words) in refused {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(target.rewind("yard", request).await.unwrap().dry_run);
    assert_eq!(target.replay(&filter, true).await.unwrap().dead_letters, 1);
    assert_eq!(target.drop_dead_letters(&filter).await.unwrap().dead_letters, 0, "it was replayed");
}

#[tokio::test]
async fn missing_or_foreign_token_is_reported() {
    let admin = Admin::start().await;
    let file = token::path(&admin.site.config.data);
    std::fs::write(&file, "0".repeat(64)).unwrap();
    let error = admin.target().await.dead_letter(0).await.unwrap_err().to_string();
    assert!(error.contains("does not accept the token in") && error.contains("admin.token"), "{error}");
    std::fs::remove_file(&file).unwrap();
    let error = admin.target().await.dead_letter(0).await.unwrap_err().to_string();
    assert!(error.contains("admin.token") && error.contains("never been started"), "{error}");
    assert_eq!(admin.target().await.streams().await.unwrap().len(), 3, "reading needs no token");
}
