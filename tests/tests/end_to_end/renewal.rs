//! Certificates, keys and secrets are replaced while messages flow.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rumqttc::mqttbytes::v5::{ConnectReturnCode, Publish};
use serde_json::Value;
use sluicegate_tests::broker::{Broker, BrokerOptions};
use sluicegate_tests::certificates::Certificates;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway, LogLine};
use sluicegate_tests::receiver::{Kind, Receiver, stream_file};
use sluicegate_tests::traffic::Traffic;
use sluicegate_tests::{LOOK, PATIENCE};
use standins::certificates::{Authority, Identity, server_config};
use standins::mqtt_server::{Answer, Client, MqttServer, Rules};
use standins::{Inbox, Received};
use tokio::time::{Instant, sleep};

const FLEET: Fleet = Fleet::new(7, u64::MAX);

/// A receiver that accepts clients with a good password, and knows with what
/// each message's connection was let in.
struct Door {
    inbox: Inbox,
    good: Mutex<Vec<&'static str>>,
    /// Password, and certificate as DER, of each message in the inbox.
    shown: Mutex<Vec<Shown>>,
}

/// What a client shows at the door.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    password: String,
    certificate: Vec<u8>,
}

impl Shown {
    fn by(client: &Client) -> Self {
        let password = client.password.as_deref().unwrap_or_default();
        let certificate = client.tls.as_ref().and_then(|tls| tls.certificate.clone());
        Self {
            password: String::from_utf8_lossy(password).into_owned(),
            certificate: certificate.unwrap_or_default(),
        }
    }
}

impl Rules for Door {
    fn connect(&self, client: &Client) -> ConnectReturnCode {
        if self.good.lock().unwrap().contains(&Shown::by(client).password.as_str()) {
            ConnectReturnCode::Success
        } else {
            ConnectReturnCode::BadUserNamePassword
        }
    }

    fn publish(&self, client: &Client, publish: &Publish) -> Answer {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        self.shown.lock().unwrap().push(Shown::by(client));
        self.inbox.record(Received::Publish { topic, payload: publish.payload.clone(), properties: vec![] });
        Answer::accept()
    }

    fn broke(&self, client: &Client, how: String) {
        self.inbox.violation(format!("{} {how}", client.client_id));
    }
}

impl Door {
    fn new(good: &[&'static str]) -> Arc<Self> {
        let good = Mutex::new(good.to_vec());
        Arc::new(Self { inbox: Inbox::default(), good, shown: Mutex::default() })
    }

    /// Waits until a message comes from a client that shows this, and returns how
    /// many came before it.
    async fn until_shown(&self, what: &str, holds: impl Fn(&Shown) -> bool) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(position) = self.shown.lock().unwrap().iter().position(&holds) {
                return position;
            }
            assert!(Instant::now() < deadline, "no message came with {what}");
            sleep(LOOK).await;
        }
    }

    /// Waits until so many more have come; with what they came.
    async fn next(&self, count: usize) -> Vec<Shown> {
        let before = self.shown.lock().unwrap().len();
        assert!(self.inbox.wait_until(PATIENCE, |all| all.len() >= before + count).await);
        self.shown.lock().unwrap()[before..].to_vec()
    }
}

/// As a careful program does it: a reader sees the old file or the new one.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn says(line: &LogLine, of: &str, message: &str) -> bool {
    let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default();
    text("of") == of && text("message").contains(message)
}

/// Waits until the log says that what the files hold now was refused, and why.
async fn until_refused(gateway: &Gateway, of: &str, reason: &str) {
    let what = format!("{of} is not renewed: {reason}");
    let because =
        |line: &LogLine| line.get("reason").and_then(Value::as_str).is_some_and(|r| r.contains(reason));
    gateway.until_logged(&what, |line| says(line, of, "were rejected") && because(line)).await;
}

async fn until_accepted(gateway: &Gateway, of: &str, times: usize) {
    let deadline = Instant::now() + PATIENCE;
    while gateway.log_lines().iter().filter(|line| says(line, of, "were accepted")).count() < times {
        assert!(Instant::now() < deadline, "{of} is not renewed");
        sleep(LOOK).await;
    }
}

async fn metrics(gateway: &Gateway) -> String {
    let (status, body) = gateway.get("/metrics").await;
    assert_eq!(status, 200);
    String::from_utf8(body.to_vec()).unwrap()
}

/// Everything that was published has arrived, once, and without a repeat.
async fn assert_all_arrived_once(gateway: &Gateway, inbox: &Inbox, published: u64) {
    let stream = gateway.until_settled("stream", published).await;
    assert_eq!((stream.read, stream.delivered), (published, published), "{stream:?}");
    assert_eq!((stream.state.as_str(), stream.retries), ("running", 0), "{stream:?}");
    let fleet = Fleet::new(FLEET.devices, published);
    assert_eq!(fleet.assert_arrived(&arrivals_in(inbox)), 0, "nothing comes twice");
}

#[tokio::test]
async fn new_password_is_used_and_bad_one_is_rejected() {
    let door = Door::new(&["p-first", "p-second"]);
    let server = MqttServer::start(door.clone(), None).await.unwrap();
    let broker = Broker::start().await;
    let destination = format!(
        "url = \"mqtt://localhost:{}\"\nusername = \"gateway\"\npassword = {{ file = \"../password\" }}",
        server.address().port()
    );
    let folder = Folder::new()
        .bus(&broker.url())
        .file("password", "p-first\n")
        .stream("stream", &stream_file(Kind::Mqtt, "topic = \"out/{ident}\"", &destination));
    let gateway = folder.start().await;
    let password = gateway.path().join("password");
    let traffic = Traffic::start(&broker, FLEET);
    door.next(50).await;

    replace(&password, "p-wrong\n");
    until_refused(&gateway, "stream", "login refused").await;
    replace(&password, "");
    until_refused(&gateway, "stream", "is empty").await;
    let stream = gateway.stream("stream").await;
    assert_eq!(stream.state, "running", "{stream:?}");
    assert!(stream.last_error.unwrap().starts_with("credentials not reloaded: "));
    assert!(door.next(50).await.iter().all(|shown| shown.password == "p-first"));

    replace(&password, "p-second\n");
    door.until_shown("the second password", |shown| shown.password == "p-second").await;
    assert!(door.next(50).await.iter().all(|shown| shown.password == "p-second"));

    let published = traffic.end().await;
    assert_all_arrived_once(&gateway, &door.inbox, published).await;
    let log = serde_json::to_string(&gateway.log_lines()).unwrap();
    assert!(!log.contains("p-"), "the log shows a secret");
}

#[tokio::test]
async fn new_certificate_is_used_and_bad_pair_is_rejected() {
    let folder = Folder::new();
    let certificates = Certificates::create(folder.path());
    let (cert, key) = (certificates.file("client.pem"), certificates.file("client.key"));
    let door = Door::new(&[""]);
    let tls = server_config(&certificates.server, Some(&certificates.authority), &[]).unwrap();
    let server = MqttServer::start(door.clone(), Some(tls)).await.unwrap();
    let broker = Broker::start().await;
    let destination =
        format!("url = \"mqtts://localhost:{}\"\n{}", server.address().port(), certificates.client_lines());
    let stream = stream_file(Kind::Mqtt, "topic = \"out/{ident}\"", &destination);
    let gateway = folder.bus(&broker.url()).stream("stream", &stream).start().await;
    let traffic = Traffic::start(&broker, FLEET);
    let first = door.next(50).await[0].certificate.clone();

    // Half of a pair, and a pair that the far side does not let in.
    let second = certificates.authority.client("second").unwrap();
    replace(&key, &second.key);
    until_refused(&gateway, "stream", "client.key").await;
    let stranger = Authority::new("stranger").unwrap().client("gateway").unwrap();
    let refused = refusals(&gateway);
    write_pair(&cert, &key, &stranger);
    let deadline = Instant::now() + PATIENCE;
    while refusals(&gateway) == refused {
        assert!(Instant::now() < deadline, "the stranger's certificate is not refused");
        sleep(LOOK).await;
    }
    let stream = gateway.stream("stream").await;
    assert_eq!(stream.state, "running", "{stream:?}");
    assert!(stream.last_error.unwrap().starts_with("credentials not reloaded: "));
    assert!(door.next(50).await.iter().all(|shown| shown.certificate == first));

    write_pair(&cert, &key, &second);
    door.until_shown("the second certificate", |shown| shown.certificate != first).await;
    assert!(door.next(50).await.iter().all(|shown| shown.certificate != first));
    let text = metrics(&gateway).await;
    assert!(text.contains("sluicegate_renewals_total{of=\"stream\",result=\"taken\"} 1"), "{text}");
    let line = format!("sluicegate_certificate_expires_seconds{{file=\"{}\"}} ", cert.display());
    assert!(text.contains(&line), "{text}");

    let published = traffic.end().await;
    assert_all_arrived_once(&gateway, &door.inbox, published).await;
}

fn write_pair(cert: &Path, key: &Path, identity: &Identity) {
    replace(cert, &identity.certificate);
    replace(key, &identity.key);
}

/// How often the log says of the stream that it was not renewed.
fn refusals(gateway: &Gateway) -> usize {
    gateway.log_lines().iter().filter(|line| says(line, "stream", "were rejected")).count()
}

#[tokio::test]
async fn bus_certificate_reload_causes_no_duplicates() {
    let folder = Folder::new();
    let broker = Broker::start_with(BrokerOptions { tls: true, ..BrokerOptions::default() }).await;
    let certificates = broker.certificates.as_ref().unwrap();
    let receiver = Receiver::start(Kind::Mqtt, folder.path()).await;
    let bus = format!("url = \"{}\"\nclient_id = \"gateway\"\n{}", broker.url(), certificates.client_lines());
    let gateway = folder.bus_lines(&bus).stream("stream", &receiver.stream).start().await;
    let (cert, key) = (certificates.file("client.pem"), certificates.file("client.key"));
    let traffic = Traffic::start(&broker, FLEET);
    traffic.more(50).await;

    let second = certificates.authority.client("second").unwrap();
    replace(&key, &second.key);
    until_refused(&gateway, "bus", "client.key").await;
    let bus = gateway.readiness().await.bus;
    assert_eq!(bus["connected"], true, "{bus}");
    assert!(bus["last_error"].as_str().unwrap().starts_with("credentials not reloaded: "), "{bus}");
    traffic.more(50).await;

    replace(&cert, &second.certificate);
    until_accepted(&gateway, "bus", 1).await;
    let again = |line: &LogLine| {
        line.get("message").is_some_and(|message| message == "reading the bus")
            && line.get("session").is_some_and(|session| session == "resumed")
    };
    gateway.until_logged("the bus is read on", again).await;
    traffic.more(50).await;
    let published = traffic.end().await;
    assert_all_arrived_once(&gateway, &receiver.inbox, published).await;
    let text = metrics(&gateway).await;
    assert!(text.contains("sluicegate_bus_take_overs_total 0"), "the gateway threw itself out:\n{text}");
}
