//! A stand-in of AWS IoT Core's Device Shadow service over MQTT.
//!
//! Topics, document rules, limits and error codes are those of the AWS IoT
//! developer guide (pages device-shadow-mqtt, device-shadow-document-syntax,
//! device-shadow-error-messages, diagnosing-shadows) and its quotas. What AWS
//! answers with a code is answered with that code; what AWS swallows in
//! silence, or what costs the whole connection, is recorded as a violation too.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{ConnectReturnCode, Publish};
use serde_json::{Map, Value, json};

use super::json::parse_strict;
use super::mqtt_server::{Answer, Client, MqttServer, Reply, Rules};
use super::plug::Plug;
use super::{Inbox, Received, ShadowUpdate, lock};

/// Largest publish, in bytes of payload.
const MAX_PAYLOAD: usize = 128 * 1024;
/// Largest shadow document after merging, without metadata.
const MAX_DOCUMENT: usize = 8 * 1024;
/// Deepest nesting of names below `reported` or `desired`.
const MAX_DEPTH: usize = 6;
/// Longest `clientToken`.
const MAX_TOKEN: usize = 64;
/// Maximum number of publishes per second on one connection, with a tolerance: what was sent
/// evenly arrives in bursts.
const MAX_RATE: usize = 120;

/// How the service behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the rules.
    Accept,
    /// Every update is acknowledged, and then rejected with this code.
    Reject(u16),
    /// Updates of this thing are acknowledged, and then rejected with this code.
    RejectThing(String, u16),
    /// Every publish is answered like this; nothing is recorded.
    Reply(Reply),
    /// Logins are refused with this code; connections that are open stay.
    RefuseLogin(ConnectReturnCode),
}

/// The running service.
#[derive(Clone)]
pub struct AwsStandin {
    server: MqttServer,
    rules: Arc<AwsRules>,
}

struct AwsRules {
    inbox: Inbox,
    mode: Mutex<Mode>,
    shadows: Mutex<HashMap<ShadowName, Shadow>>,
    /// When the newest publishes of each connection came.
    rates: Mutex<HashMap<u64, VecDeque<Instant>>>,
}

/// Thing and, for a named one, shadow.
type ShadowName = (String, Option<String>);

#[derive(Clone, Default)]
struct Shadow {
    state: Map<String, Value>,
    version: u64,
}

/// A rejection: code and message.
type Rejected = (u16, String);

impl AwsStandin {
    /// Starts on a free port of 127.0.0.1. AWS always requires TLS and a
    /// client certificate; the settings come from
    /// [`server_config`](super::certificates::server_config).
    pub async fn start(inbox: Inbox, tls: Arc<rustls::ServerConfig>) -> io::Result<Self> {
        let rules = Arc::new(AwsRules {
            inbox,
            mode: Mutex::new(Mode::Accept),
            shadows: Mutex::new(HashMap::new()),
            rates: Mutex::new(HashMap::new()),
        });
        let server = MqttServer::start(Arc::clone(&rules), Some(tls)).await?;
        Ok(Self { server, rules })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.address().port()
    }

    /// Its socket: connections counted, unplug and plug.
    pub fn plug(&self) -> &Plug {
        self.server.plug()
    }

    /// Behaves like this from the next packet on.
    pub fn set_mode(&self, mode: Mode) {
        *lock(&self.rules.mode) = mode;
    }

    /// `state` of a shadow as it stands.
    pub fn shadow(&self, thing: &str, shadow: Option<&str>) -> Option<Value> {
        let name = (thing.to_owned(), shadow.map(str::to_owned));
        lock(&self.rules.shadows).get(&name).map(|shadow| Value::Object(shadow.state.clone()))
    }
}

impl Rules for AwsRules {
    fn connect(&self, client: &Client) -> ConnectReturnCode {
        if let Mode::RefuseLogin(code) = &*lock(&self.mode) {
            return *code;
        }
        let tls = client.tls.as_ref();
        let id = &client.client_id;
        if tls.and_then(|tls| tls.sni.as_ref()).is_none() {
            self.inbox.violation(format!("aws: {id} sent no server name (SNI)"));
            return ConnectReturnCode::NotAuthorized;
        }
        if tls.is_none_or(|tls| tls.certificate.is_none()) {
            self.inbox.violation(format!("aws: {id} has no client certificate"));
            return ConnectReturnCode::NotAuthorized;
        }
        if id.is_empty() || id.len() > 128 || id.starts_with('$') {
            self.inbox
                .violation(format!("aws: the client id {id:?} is not 1 to 128 bytes without leading $"));
            return ConnectReturnCode::ClientIdentifierNotValid;
        }
        ConnectReturnCode::Success
    }

    fn publish(&self, client: &Client, publish: &Publish) -> Answer {
        let mode = lock(&self.mode).clone();
        if let Mode::Reply(reply) = mode {
            return Answer::reply(reply);
        }
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        // AWS says these by cutting the connection, or not at all.
        let fatal = if publish.retain {
            Some("RETAIN is set")
        } else if publish.payload.len() > MAX_PAYLOAD {
            Some("the payload is above 128 KiB")
        } else if topic.len() > 256 || topic.matches('/').count() > 7 {
            Some("the topic has more than 256 bytes or 7 slashes")
        } else if self.too_fast(client.session) {
            Some("more than 100 publishes in a second: AWS discards the excess")
        } else {
            None
        };
        if let Some(rule) = fatal {
            self.inbox.violation(format!("aws: {topic}: {rule}"));
            return Answer::reply(Reply::Close);
        }
        if publish.qos != QoS::AtLeastOnce {
            self.inbox.violation(format!("aws: {topic}: published with {:?}", publish.qos));
        }
        if !topic.starts_with('$') {
            let properties =
                publish.properties.as_ref().map(|p| p.user_properties.clone()).unwrap_or_default();
            self.inbox.record(Received::Publish { topic, payload: publish.payload.clone(), properties });
            return Answer::accept();
        }
        let Some(name) = shadow_of(&topic) else {
            self.inbox.violation(format!("aws: {topic} is not a topic that a client may publish to"));
            return Answer::reply(Reply::Close);
        };
        let injected = match mode {
            Mode::Reject(code) => Some(code),
            Mode::RejectThing(thing, code) if thing == name.0 => Some(code),
            _ => None,
        };
        let result = match injected {
            Some(code) => Err((code, "on command".to_owned())),
            None => self.update(&name, &publish.payload).inspect_err(|(code, message)| {
                self.inbox.violation(format!("aws: {topic}: {code} {message}"));
            }),
        };
        let mut answer = Answer::accept();
        match result {
            Ok(update) => self.inbox.record(Received::Shadow(update)),
            Err(rejected) => {
                answer.publish.push((format!("{topic}/rejected"), rejection(rejected, &publish.payload)));
            }
        }
        answer
    }

    fn broke(&self, client: &Client, how: String) {
        self.inbox.violation(format!("aws: {} {how}", client.client_id));
    }

    fn gone(&self, client: &Client) {
        lock(&self.rates).remove(&client.session);
    }
}

impl AwsRules {
    fn too_fast(&self, session: u64) -> bool {
        let now = Instant::now();
        let mut rates = lock(&self.rates);
        let times = rates.entry(session).or_default();
        while times.front().is_some_and(|then| now.duration_since(*then) > Duration::from_secs(1)) {
            times.pop_front();
        }
        times.push_back(now);
        times.len() > MAX_RATE
    }

    fn update(&self, name: &ShadowName, payload: &[u8]) -> Result<ShadowUpdate, Rejected> {
        let invalid = |message: &str| (400, message.to_owned());
        let code = |message: String| (if message.starts_with("not UTF-8") { 415 } else { 400 }, message);
        let document = parse_strict(payload).map_err(code)?;
        let Value::Object(document) = document else { return Err(invalid("the document is not an object")) };
        if let Some(extra) =
            document.keys().find(|key| !matches!(key.as_str(), "state" | "clientToken" | "version"))
        {
            // AWS takes it and stores it nowhere: for a gateway that is a loss.
            self.inbox.violation(format!("aws: {}: {extra:?} beside state is not stored", name.0));
        }
        let client_token = match document.get("clientToken") {
            None => None,
            Some(Value::String(token)) if token.len() <= MAX_TOKEN => Some(token.clone()),
            Some(_) => return Err(invalid("clientToken is not text of at most 64 bytes")),
        };
        let state = document.get("state").ok_or_else(|| invalid("state is missing"))?;
        let state = state.as_object().ok_or_else(|| invalid("state is not an object"))?;
        for (section, value) in state {
            match (section.as_str(), value) {
                ("reported" | "desired", Value::Null) => {}
                ("reported" | "desired", value @ Value::Object(_)) => {
                    if depth(value) > MAX_DEPTH {
                        return Err(invalid("too many levels"));
                    }
                    if null_in_array(value) {
                        return Err(invalid("an array contains null"));
                    }
                }
                (_, _) => return Err(invalid("state has a node beside the objects reported and desired")),
            }
        }

        let mut shadows = lock(&self.shadows);
        let mut shadow = shadows.get(name).cloned().unwrap_or_default();
        if let Some(version) = document.get("version") {
            let version = version.as_u64().ok_or_else(|| invalid("version is not a whole number"))?;
            if version != shadow.version {
                return Err((409, "version conflict".to_owned()));
            }
        }
        merge(&mut shadow.state, state);
        let size = serde_json::to_vec(&shadow.state).map_or(usize::MAX, |text| text.len());
        if size > MAX_DOCUMENT {
            return Err((413, format!("the merged document has {size} bytes")));
        }
        shadow.version += 1;
        let update = ShadowUpdate {
            thing: name.0.clone(),
            shadow: name.1.clone(),
            update: state.get("reported").cloned().unwrap_or(Value::Null),
            merged: shadow.state.get("reported").cloned().unwrap_or(Value::Null),
            version: shadow.version,
            client_token,
        };
        shadows.insert(name.clone(), shadow);
        Ok(update)
    }
}

/// Thing and shadow name of an update topic whose names keep AWS's rules.
fn shadow_of(topic: &str) -> Option<ShadowName> {
    let thing_name = |name: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
        (1..=128).contains(&name.len()) && name.bytes().all(allowed)
    };
    let shadow_name = |name: &str| name.len() <= 64 && thing_name(&name.replace('$', "_"));
    let levels: Vec<&str> = topic.split('/').collect();
    match levels[..] {
        ["$aws", "things", thing, "shadow", "update"] if thing_name(thing) => Some((thing.to_owned(), None)),
        ["$aws", "things", thing, "shadow", "name", shadow, "update"]
            if thing_name(thing) && shadow_name(shadow) =>
        {
            Some((thing.to_owned(), Some(shadow.to_owned())))
        }
        _ => None,
    }
}

/// The `rejected` document; the token is repeated where the request has one.
fn rejection((code, message): Rejected, request: &[u8]) -> Bytes {
    let mut body = json!({ "code": code, "message": message });
    let token = serde_json::from_slice::<Value>(request).ok().and_then(|v| v.get("clientToken").cloned());
    if let (Value::Object(body), Some(token)) = (&mut body, token) {
        body.insert("clientToken".to_owned(), token);
    }
    Bytes::from(body.to_string())
}

/// Objects merge, null deletes, everything else replaces.
fn merge(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (_, Value::Null) => {
                into.remove(key);
            }
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, Value::Object(new)) => {
                let mut fresh = Map::new();
                merge(&mut fresh, new);
                into.insert(key.clone(), Value::Object(fresh));
            }
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Levels of names below the value.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.values().map(|value| 1 + depth(value)).max().unwrap_or(0),
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn null_in_array(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().any(null_in_array),
        Value::Array(items) => items.iter().any(|item| item.is_null() || null_in_array(item)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn rules() -> AwsRules {
        AwsRules {
            inbox: Inbox::default(),
            mode: Mutex::new(Mode::Accept),
            shadows: Mutex::default(),
            rates: Mutex::default(),
        }
    }

    fn thing() -> ShadowName {
        ("t".to_owned(), None)
    }

    fn update(rules: &AwsRules, body: &str) -> Result<ShadowUpdate, Rejected> {
        rules.update(&thing(), body.as_bytes())
    }

    #[test]
    fn updates_merge_and_null_deletes() {
        let rules = rules();
        update(&rules, r#"{"state":{"reported":{"a":1,"b":{"c":1,"d":2},"e":[1]}}}"#).unwrap();
        let second =
            update(&rules, r#"{"state":{"reported":{"b":{"c":null,"x":3},"e":[2],"a":null}}}"#).unwrap();
        assert_eq!(second.merged, json!({ "b": { "d": 2, "x": 3 }, "e": [2] }));
        assert_eq!(second.version, 2);
    }

    #[test]
    fn documents_are_rejected_with_the_codes_of_the_guide() {
        let long = "x".repeat(65);
        let big = "x".repeat(8200);
        for (body, code, message) in [
            (r#"{"reported":{}}"#.to_owned(), 400, "state is missing"),
            (r#"{"state":[]}"#.to_owned(), 400, "state is not an object"),
            (r#"{"state":{"reported":{},"other":{}}}"#.to_owned(), 400, "beside the objects"),
            (r#"{"state":{"reported":3}}"#.to_owned(), 400, "beside the objects"),
            (r#"{"state":{"reported":{"a":[1,null]}}}"#.to_owned(), 400, "array contains null"),
            (
                r#"{"state":{"reported":{"a":{"b":{"c":{"d":{"e":{"f":{"g":1}}}}}}}}}"#.to_owned(),
                400,
                "levels",
            ),
            (r#"{"state":{"reported":{"a":1,"a":2}}}"#.to_owned(), 400, "twice"),
            (format!(r#"{{"state":{{}},"clientToken":"{long}"}}"#), 400, "clientToken"),
            (r#"{"state":{},"version":7}"#.to_owned(), 409, "version"),
            (format!(r#"{{"state":{{"reported":{{"a":"{big}"}}}}}}"#), 413, "merged document"),
            ("{".to_owned(), 400, "not JSON"),
        ] {
            let (found, text) = update(&rules(), &body).unwrap_err();
            assert_eq!(found, code, "{body}");
            assert!(text.contains(message), "{body}: {text}");
        }
        assert_eq!(rules().update(&thing(), b"{\"a\":\"\xff\"}").unwrap_err().0, 415);
        let six = r#"{"state":{"reported":{"a":{"b":{"c":{"d":{"e":{"f":1}}}}}}}}"#;
        assert!(update(&rules(), six).is_ok());
    }

    #[test]
    fn only_update_topics_with_valid_names_are_open() {
        let name = |thing: &str, shadow: Option<&str>| Some((thing.to_owned(), shadow.map(str::to_owned)));
        assert_eq!(shadow_of("$aws/things/a:b_c-1/shadow/update"), name("a:b_c-1", None));
        assert_eq!(shadow_of("$aws/things/a/shadow/name/s$1/update"), name("a", Some("s$1")));
        for topic in [
            "$aws/things//shadow/update",
            "$aws/things/a b/shadow/update",
            "$aws/things/a/shadow/update/accepted",
            "$aws/things/a/shadow/name//update",
            "$aws/jobs",
        ] {
            assert_eq!(shadow_of(topic), None, "{topic}");
        }
    }
}
