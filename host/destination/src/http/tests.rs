//! Against a server that reads requests and plays back scripted answers.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use settings_reader::document::{Document, Surroundings};
use settings_reader::section::Section;
use settings_reader::{Meanwhile, Secret, TlsSettings};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use toml::de::DeTable;

use super::*;
use crate::{Cause, FaultKind, Identity, Reply};

/// What the server does with one request.
#[derive(Clone)]
enum Act {
    Answer(&'static str),
    /// Answers and then goes on sending bytes for ever.
    Flood(&'static str),
    Close,
    Silence,
}

struct Seen {
    connection: usize,
    head: Vec<String>,
    body: Vec<u8>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find_map(|line| {
            let (n, v) = line.split_once(": ")?;
            n.eq_ignore_ascii_case(name).then_some(v)
        })
    }
}

/// Serves connections one after another; each request takes the next act.
async fn server(acts: Vec<Act>) -> (u16, mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, requests) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut acts = acts.into_iter();
        for connection in 1.. {
            let (socket, _) = listener.accept().await.unwrap();
            let mut socket = BufReader::new(socket);
            while let Some((head, body)) = read_request(&mut socket).await {
                seen.send(Seen { connection, head, body }).await.unwrap();
                match acts.next().unwrap() {
                    Act::Answer(text) => socket.write_all(text.as_bytes()).await.unwrap(),
                    Act::Flood(text) => {
                        socket.write_all(text.as_bytes()).await.unwrap();
                        while socket.write_all(&[b'x'; 4096]).await.is_ok() {}
                        break;
                    }
                    Act::Close => break,
                    Act::Silence => std::future::pending().await,
                }
            }
        }
    });
    (port, requests)
}

async fn read_request(socket: &mut BufReader<TcpStream>) -> Option<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let seen = Seen { connection: 0, head, body: Vec::new() };
    let length = seen.header("content-length").map_or(0, |v| v.parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some((seen.head, body))
}

fn settings(url: &str) -> HttpSettings {
    HttpSettings {
        url: Url::parse(url).unwrap(),
        method: HttpMethod::Post,
        headers: vec![("X-Api-Key".into(), Secret::new("s3cret"))],
        tls: TlsSettings::default(),
        gzip: false,
        timeout: Duration::from_secs(20),
        flespi: false,
    }
}

/// The destination that these keys describe.
fn configured(port: u16, keys: &str) -> HttpDestination {
    let text = format!("url = \"http://127.0.0.1:{port}/\"\n{keys}\n");
    let table = DeTable::parse(&text).unwrap();
    let surroundings = Surroundings { env: &|_| None, thorough: false, embedded: true, keys: None };
    let doc = Document::new(Path::new("a.toml"), &text, Meanwhile::NothingRuns, surroundings);
    let settings = HttpSettings::read(&mut Section::root(&doc, table.get_ref()));
    HttpDestination::new(settings.unwrap_or_else(|| panic!("{:?}", doc.into_errors())))
}

fn delivery(target: Option<&str>, body: &'static str) -> Delivery {
    Delivery {
        target: target.map(Into::into),
        headers: vec![("X-Trace".into(), "7".into())],
        body: body.into(),
        identity: None,
    }
}

async fn exchange(
    connection: &mut Box<dyn Connection>,
    id: u64,
    delivery: &Delivery,
) -> Result<(DeliveryId, Verdict), Fault> {
    connection.send(DeliveryId(id), delivery).await?;
    connection.next().await
}

const OK: Act = Act::Answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");

#[tokio::test]
async fn sends_what_it_was_given_and_keeps_the_connection() {
    let (port, mut requests) = server(vec![OK, Act::Answer("HTTP/1.1 204 No Content\r\n\r\n")]).await;
    let destination = HttpDestination::new(settings(&format!("http://127.0.0.1:{port}/in?key=k")));
    let mut connection = destination.connect(0).await.unwrap();

    let verdict = exchange(&mut connection, 1, &delivery(Some("a/b?x=1"), "[1]")).await.unwrap();
    assert_eq!(verdict, (DeliveryId(1), Verdict::Delivered));
    let seen = requests.recv().await.unwrap();
    assert_eq!(seen.head[0], "POST /in/a/b?key=k&x=1 HTTP/1.1");
    assert_eq!(seen.header("host"), Some(format!("127.0.0.1:{port}").as_str()));
    assert_eq!(seen.header("x-api-key"), Some("s3cret"));
    assert_eq!(seen.header("x-trace"), Some("7"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.body, b"[1]");

    let verdict = exchange(&mut connection, 2, &delivery(None, "text")).await.unwrap();
    assert_eq!(verdict, (DeliveryId(2), Verdict::Delivered));
    let seen = requests.recv().await.unwrap();
    assert_eq!((seen.connection, seen.head[0].as_str()), (1, "POST /in?key=k HTTP/1.1"));
}

#[tokio::test]
async fn the_identity_goes_along_and_replaces_what_others_call_so() {
    let (port, mut requests) = server(vec![OK, OK]).await;
    let mut flespi = settings(&format!("http://127.0.0.1:{port}/"));
    flespi.flespi = true;
    flespi.headers.push(("Idempotency-Key".into(), Secret::new("configured")));
    let destination = HttpDestination::new(flespi);
    assert!(destination.wants_identity());
    let mut connection = destination.connect(0).await.unwrap();
    let identity = Identity { key: "b6b1".repeat(8), positions: "12/0-5,13/0".into() };
    let mut known = delivery(None, "{}");
    known.headers.push(("sluicegate-positions".into(), "made up".into()));
    known.identity = Some(identity.clone());
    exchange(&mut connection, 1, &known).await.unwrap();
    let seen = requests.recv().await.unwrap();
    let all = |name: &str| -> Vec<String> {
        let lines = seen.head.iter().filter_map(|line| line.split_once(": "));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned()).collect()
    };
    assert_eq!(all("idempotency-key"), [identity.key]);
    assert_eq!(all("sluicegate-positions"), [identity.positions]);

    exchange(&mut connection, 2, &delivery(None, "{}")).await.unwrap();
    assert_eq!(requests.recv().await.unwrap().header("sluicegate-positions"), None);
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_costs_nothing() {
    let close = Act::Answer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let (port, mut requests) = server(vec![close, OK]).await;
    let destination = HttpDestination::new(settings(&format!("http://127.0.0.1:{port}/")));
    let mut connection = destination.connect(0).await.unwrap();
    for id in 1..=2 {
        let verdict = exchange(&mut connection, id, &delivery(None, "{}")).await.unwrap();
        assert_eq!(verdict, (DeliveryId(id), Verdict::Delivered));
        requests.recv().await.unwrap();
    }
}

#[tokio::test]
async fn refusals_and_pauses_leave_the_connection_usable() {
    let (port, mut requests) = server(vec![
        Act::Answer("HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nlate"),
        Act::Answer("HTTP/1.1 422 No\r\nContent-Length: 9\r\n\r\nbad ident"),
        OK,
    ])
    .await;
    let destination = HttpDestination::new(settings(&format!("http://127.0.0.1:{port}/")));
    let mut connection = destination.connect(0).await.unwrap();
    let (_, busy) = exchange(&mut connection, 1, &delivery(None, "{}")).await.unwrap();
    let fault = Fault::transient("503 Service Unavailable: late").after(Some(Duration::from_secs(3)));
    assert_eq!(busy, Verdict::Deferred(fault));
    let (_, refused) = exchange(&mut connection, 2, &delivery(None, "{}")).await.unwrap();
    let Verdict::Refused(reply) = refused else { panic!("refused expected, got {refused:?}") };
    assert_eq!(reply.0, "422 Unprocessable Entity: bad ident");
    assert_eq!(exchange(&mut connection, 3, &delivery(None, "{}")).await.unwrap().1, Verdict::Delivered);
    for _ in 0..3 {
        assert_eq!(requests.recv().await.unwrap().connection, 1);
    }
}

#[tokio::test]
async fn flespi_takes_nothing_but_200_for_success() {
    const NO_CONTENT: Act = Act::Answer("HTTP/1.1 204 No Content\r\n\r\n");
    const BAD: Act = Act::Answer("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let deferred =
        |said: &str| Verdict::Deferred(Fault::persistent(Cause::UnexpectedAnswer, said.to_owned()));
    let refused = Verdict::Refused(Reply("400 Bad Request".to_owned()));
    for (keys, expected) in [
        (
            "compat = \"flespi\"",
            [deferred("204 No Content"), deferred("400 Bad Request"), Verdict::Delivered],
        ),
        ("", [Verdict::Delivered, refused, Verdict::Delivered]),
    ] {
        let (port, mut requests) = server(vec![NO_CONTENT, BAD, OK]).await;
        let mut connection = configured(port, keys).connect(0).await.unwrap();
        for (id, verdict) in (1..).zip(expected) {
            let answer = exchange(&mut connection, id, &delivery(None, "{}")).await.unwrap();
            assert_eq!(answer, (DeliveryId(id), verdict), "{keys}");
            assert_eq!(requests.recv().await.unwrap().connection, 1);
        }
    }
}

#[tokio::test]
async fn bodies_are_compressed_where_the_stream_says_so() {
    let text = format!("[{}1]", "1,".repeat(600));
    for (keys, encoding) in [("gzip = true", Some("gzip")), ("gzip = false", None), ("", None)] {
        let (port, mut requests) = server(vec![OK]).await;
        let mut connection = configured(port, keys).connect(0).await.unwrap();
        let large = Delivery { body: Bytes::from(text.clone()), ..delivery(None, "") };
        let (_, verdict) = exchange(&mut connection, 1, &large).await.unwrap();
        assert_eq!(verdict, Verdict::Delivered);
        let seen = requests.recv().await.unwrap();
        assert_eq!(seen.header("content-encoding"), encoding, "{keys}");
        assert_eq!(seen.header("content-type"), Some("application/json"));
        let body = match encoding {
            None => String::from_utf8(seen.body).unwrap(),
            Some(_) => std::io::read_to_string(flate2::read::GzDecoder::new(&seen.body[..])).unwrap(),
        };
        assert_eq!(body, text);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (port, mut requests) =
        server(vec![Act::Answer("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")]).await;
    let destination = HttpDestination::new(settings(&format!("http://127.0.0.1:{port}/")));
    let mut connection = destination.connect(0).await.unwrap();
    let (_, verdict) = exchange(&mut connection, 1, &delivery(None, "{}")).await.unwrap();
    assert_eq!(verdict, Verdict::Deferred(Fault::persistent(Cause::UnexpectedAnswer, "302 Found")));
    requests.recv().await.unwrap();
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn no_answer_is_a_destination_fault() {
    let (port, _requests) = server(vec![Act::Close, Act::Silence]).await;
    let mut slow = settings(&format!("http://127.0.0.1:{port}/"));
    slow.timeout = Duration::from_millis(300);
    let destination = HttpDestination::new(slow);

    let mut connection = destination.connect(0).await.unwrap();
    let fault = exchange(&mut connection, 1, &delivery(None, "{}")).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Transient);
    assert!(fault.reason.starts_with(&format!("no answer from 127.0.0.1:{port}: ")), "{fault}");

    let mut connection = destination.connect(0).await.unwrap();
    let fault = exchange(&mut connection, 2, &delivery(None, "{}")).await.unwrap_err();
    assert_eq!(fault, Fault::transient(format!("no answer from 127.0.0.1:{port} within 300ms")));
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_its_status_counts() {
    let flood = Act::Flood("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
    let (port, _requests) = server(vec![flood, OK]).await;
    let destination = HttpDestination::new(settings(&format!("http://127.0.0.1:{port}/")));
    let mut connection = destination.connect(0).await.unwrap();
    assert_eq!(exchange(&mut connection, 1, &delivery(None, "{}")).await.unwrap().1, Verdict::Delivered);
    assert_eq!(exchange(&mut connection, 2, &delivery(None, "{}")).await.unwrap().1, Verdict::Delivered);
}

#[tokio::test]
async fn an_answer_that_stalls_keeps_its_status() {
    let stalled = Act::Answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
    let (port, _requests) = server(vec![stalled]).await;
    let mut slow = settings(&format!("http://127.0.0.1:{port}/"));
    slow.timeout = Duration::from_millis(500);
    let mut connection = HttpDestination::new(slow).connect(0).await.unwrap();
    assert_eq!(exchange(&mut connection, 1, &delivery(None, "{}")).await.unwrap().1, Verdict::Delivered);
}

#[tokio::test]
async fn a_verdict_survives_a_cancelled_next() {
    let (port, _requests) = server(vec![OK]).await;
    let destination = HttpDestination::new(settings(&format!("http://127.0.0.1:{port}/")));
    let mut connection = destination.connect(0).await.unwrap();
    connection.send(DeliveryId(1), &delivery(None, "{}")).await.unwrap();
    // Polled once and dropped, as a select does it.
    assert!(futures_util::FutureExt::now_or_never(connection.next()).is_none());
    assert_eq!(connection.next().await.unwrap(), (DeliveryId(1), Verdict::Delivered));
}

#[tokio::test]
async fn connecting_tells_what_is_wrong() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let refused = HttpDestination::new(settings(&format!("http://127.0.0.1:{port}/"))).connect(0).await;
    let fault = refused.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Transient);
    assert!(fault.reason.starts_with(&format!("cannot connect to 127.0.0.1:{port}: ")), "{fault}");
    assert!(fault.reason.contains("refused"), "{fault}");

    let mut unreadable = settings("https://127.0.0.1:1/");
    unreadable.tls.ca = Some("/nonexistent/ca.pem".into());
    let fault = HttpDestination::new(unreadable).connect(0).await.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Persistent);
    assert!(fault.reason.starts_with("/nonexistent/ca.pem: "), "{fault}");

    let mut bad_header = settings("http://127.0.0.1:1/");
    bad_header.headers = vec![("X-Token".into(), Secret::new("a\nb"))];
    let fault = HttpDestination::new(bad_header).connect(0).await.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Persistent);
    assert!(fault.reason.contains("\"X-Token\"") && !fault.reason.contains("a\nb"), "{fault}");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_needs_an_operator() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut https = settings(&format!("https://127.0.0.1:{plain}/"));
    https.timeout = Duration::from_secs(5);
    let fault = HttpDestination::new(https).connect(0).await.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Persistent, "{fault}");
}

#[test]
fn check_applies_all_rules() {
    let destination = HttpDestination::new(settings("http://h/in"));
    assert_eq!(destination.check(&delivery(Some("a"), "{}")), Ok(()));
    assert!(destination.check(&delivery(Some("../a"), "{}")).is_err());
    let mut own = delivery(None, "{}");
    own.headers.push(("x-api-key".into(), "mine".into()));
    assert!(destination.check(&own).unwrap_err().contains("x-api-key"));
    own.headers = vec![("Cookie".into(), "a=b".into())];
    assert!(destination.check(&own).is_err());
}
