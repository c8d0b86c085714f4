//! A stand-in of ThingsBoard's gateway MQTT API.
//!
//! Answers are those of the server from version 4.2.1 on (`MqttTransportHandler`,
//! `AbstractGatewaySessionHandler`, `JsonConverter`). What the server takes in
//! silence and then drops, casts to another type or files under a wrong time
//! is recorded as a violation.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, PubAckReason, Publish};
use serde_json::{Map, Number, Value};

use super::json::parse_strict;
use super::mqtt_server::{Answer, Client, MqttServer, Reply, Rules};
use super::plug::Plug;
use super::{Inbox, Received, lock};

/// `NETTY_MAX_PAYLOAD_SIZE`: topic, packet id and payload together stay below.
const MAX_PACKET: usize = 65_536;
/// Maximum number of decimals of a number that is not stored as text.
const MAX_DECIMALS: usize = 16;
/// Longest key, device name and device type, in characters.
const MAX_NAME: usize = 255;
/// Milliseconds of 2001 and of 2286: seconds or microseconds taken for
/// milliseconds fall outside.
const PLAUSIBLE: std::ops::Range<i64> = 1_000_000_000_000..10_000_000_000_000;

/// How the platform behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the rules.
    Accept,
    /// Every publish is answered like this; nothing is recorded.
    Reply(Reply),
    /// Publishes that name this device are answered with this reason.
    RefuseDevice(String, PubAckReason),
    /// By the rules, but each publish of data is acknowledged so many times,
    /// as servers before 4.2.1 did for each device in it.
    Acks(u8),
}

/// The running platform.
#[derive(Clone)]
pub struct ThingsBoardStandin {
    server: MqttServer,
    rules: Arc<GatewayRules>,
}

struct GatewayRules {
    inbox: Inbox,
    access_token: String,
    mode: Mutex<Mode>,
    /// Devices that entered, by connection.
    devices: Mutex<HashMap<u64, HashSet<String>>>,
}

/// Why a publish is not taken.
#[derive(Debug, PartialEq)]
enum Bad {
    /// PUBACK 0x99, the connection stays.
    Payload(String),
    /// PUBACK 0x83 and DISCONNECT 0x83.
    Shape(String),
}

impl ThingsBoardStandin {
    /// Starts on a free port of 127.0.0.1; only this access token, as user
    /// name, enters.
    pub async fn start(inbox: Inbox, access_token: &str) -> io::Result<Self> {
        let rules = Arc::new(GatewayRules {
            inbox,
            access_token: access_token.to_owned(),
            mode: Mutex::new(Mode::Accept),
            devices: Mutex::new(HashMap::new()),
        });
        let server = MqttServer::start(Arc::clone(&rules), None).await?;
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
}

impl Rules for GatewayRules {
    fn connect(&self, client: &Client) -> ConnectReturnCode {
        if client.username.as_deref() == Some(self.access_token.as_str()) {
            ConnectReturnCode::Success
        } else {
            ConnectReturnCode::BadUserNamePassword
        }
    }

    fn publish(&self, client: &Client, publish: &Publish) -> Answer {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let mode = lock(&self.mode).clone();
        let accepted = match mode {
            Mode::Reply(reply) => return Answer::reply(reply),
            Mode::Acks(times)
                if matches!(topic.as_str(), "v1/gateway/telemetry" | "v1/gateway/attributes") =>
            {
                Answer::reply(Reply::Acks(times))
            }
            Mode::RefuseDevice(device, reason)
                if String::from_utf8_lossy(&publish.payload).contains(&device) =>
            {
                return Answer::ack(reason, Some(format!("device {device} is refused")));
            }
            Mode::Accept | Mode::RefuseDevice(..) | Mode::Acks(_) => Answer::accept(),
        };
        if topic.len() + 4 + publish.payload.len() >= MAX_PACKET {
            self.inbox.violation(format!("thingsboard: {topic}: a packet of 64 KiB or more"));
            return Answer::reply(Reply::Disconnect(None, DisconnectReasonCode::MalformedPacket));
        }
        if publish.qos != QoS::AtLeastOnce || publish.retain {
            let how = format!("{:?}, retain {}", publish.qos, publish.retain);
            self.inbox.violation(format!("thingsboard: {topic}: published with {how}"));
        }
        let result = match topic.as_str() {
            "v1/gateway/connect" => self.connect_device(client, &publish.payload),
            "v1/gateway/disconnect" => self.disconnect_device(client, &publish.payload),
            "v1/gateway/telemetry" => self.telemetry(client, &publish.payload),
            "v1/gateway/attributes" => self.attributes(client, &publish.payload),
            _ => {
                self.inbox.violation(format!("thingsboard: {topic} is not a topic of a gateway"));
                return Answer::ack(PubAckReason::TopicNameInvalid, None);
            }
        };
        match result {
            Ok(received) => {
                received.into_iter().for_each(|received| self.inbox.record(received));
                accepted
            }
            Err(Bad::Payload(reason)) => {
                self.inbox.violation(format!("thingsboard: {topic}: {reason}"));
                Answer::ack(PubAckReason::PayloadFormatInvalid, Some(reason))
            }
            Err(Bad::Shape(reason)) => {
                self.inbox.violation(format!("thingsboard: {topic}: {reason}"));
                let ack = Some(PubAckReason::ImplementationSpecificError);
                Answer::reply(Reply::Disconnect(ack, DisconnectReasonCode::ImplementationSpecificError))
            }
        }
    }

    fn broke(&self, client: &Client, how: String) {
        self.inbox.violation(format!("thingsboard: {} {how}", client.client_id));
    }

    fn gone(&self, client: &Client) {
        lock(&self.devices).remove(&client.session);
    }
}

impl GatewayRules {
    fn connect_device(&self, client: &Client, payload: &[u8]) -> Result<Vec<Received>, Bad> {
        let body = object(payload)?;
        let device = device_name(body.get("device"))?;
        let device_type = match body.get("type") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) if named(name) => Some(name.clone()),
            Some(_) => return Err(Bad::Shape("type is not text of 1 to 255 characters".to_owned())),
        };
        lock(&self.devices).entry(client.session).or_default().insert(device.clone());
        Ok(vec![Received::DeviceConnected { device, device_type }])
    }

    fn disconnect_device(&self, client: &Client, payload: &[u8]) -> Result<Vec<Received>, Bad> {
        let device = device_name(object(payload)?.get("device"))?;
        lock(&self.devices).entry(client.session).or_default().remove(&device);
        Ok(Vec::new())
    }

    fn telemetry(&self, client: &Client, payload: &[u8]) -> Result<Vec<Received>, Bad> {
        let (device, entries) = self.only_device(client, payload)?;
        let Value::Array(entries) = entries else {
            return Err(Bad::Shape(format!("the entries of {device:?} are no list")));
        };
        if entries.is_empty() {
            return Err(Bad::Shape(format!("{device:?} has no entries")));
        }
        let entry = |entry| {
            let (ts, values) = self.entry(&device, entry)?;
            Ok(Received::Telemetry { device: device.clone(), ts, values })
        };
        entries.into_iter().map(entry).collect()
    }

    fn attributes(&self, client: &Client, payload: &[u8]) -> Result<Vec<Received>, Bad> {
        let (device, values) = self.only_device(client, payload)?;
        let Value::Object(values) = values else {
            return Err(Bad::Payload(format!("the attributes of {device:?} are no object")));
        };
        self.check_values(&device, &values);
        Ok(vec![Received::Attributes { device, values }])
    }

    /// The device of a publish. Several at once cost the connection on
    /// servers before 4.2.1: one PUBACK came for each.
    fn only_device(&self, client: &Client, payload: &[u8]) -> Result<(String, Value), Bad> {
        let body = object(payload)?;
        let mut devices = body.into_iter();
        let (Some((device, value)), None) = (devices.next(), devices.next()) else {
            return Err(Bad::Shape("a publish has not exactly one device".to_owned()));
        };
        let device = device_name(Some(&Value::String(device)))?;
        if !lock(&self.devices).get(&client.session).is_some_and(|known| known.contains(&device)) {
            self.inbox.violation(format!("thingsboard: data of {device:?} before its connect"));
        }
        Ok((device, value))
    }

    fn entry(&self, device: &str, entry: Value) -> Result<(i64, Map<String, Value>), Bad> {
        let Value::Object(mut entry) = entry else {
            return Err(Bad::Payload(format!("an entry of {device:?} is not an object")));
        };
        let (Some(ts), Some(values)) = (entry.remove("ts"), entry.remove("values")) else {
            // The server takes all of it as flat keys of now: the time is lost.
            return Err(Bad::Payload(format!("an entry of {device:?} has no ts and values")));
        };
        let Some(ts) = ts.as_i64() else {
            return Err(Bad::Payload(format!("ts {ts} of {device:?} is not a whole number")));
        };
        let Value::Object(values) = values else {
            return Err(Bad::Payload(format!("values of {device:?} are no object")));
        };
        if !PLAUSIBLE.contains(&ts) {
            self.inbox
                .violation(format!("thingsboard: ts {ts} of {device:?} are no milliseconds of our time"));
        }
        if let Some(extra) = entry.keys().find(|key| key.as_str() != "metadata") {
            self.inbox.violation(format!("thingsboard: {extra:?} beside ts of {device:?} is ignored"));
        }
        self.check_values(device, &values);
        Ok((ts, values))
    }

    fn check_values(&self, device: &str, values: &Map<String, Value>) {
        if values.is_empty() {
            self.inbox.violation(format!("thingsboard: an entry of {device:?} without values"));
        }
        for (key, value) in values {
            let broken = match value {
                _ if !named(key) => Some("the key is not 1 to 255 characters"),
                Value::Null => Some("null is dropped in silence"),
                Value::Number(number) => broken_number(number),
                _ => None,
            };
            if let Some(broken) = broken {
                self.inbox.violation(format!("thingsboard: {device:?} {key:?}: {broken}"));
            }
        }
    }
}

fn object(payload: &[u8]) -> Result<Map<String, Value>, Bad> {
    match parse_strict(payload).map_err(Bad::Payload)? {
        Value::Object(map) if !map.is_empty() => Ok(map),
        _ => Err(Bad::Shape("the payload is not an object with content".to_owned())),
    }
}

fn device_name(value: Option<&Value>) -> Result<String, Bad> {
    match value {
        Some(Value::String(name)) if named(name) => Ok(name.clone()),
        _ => Err(Bad::Shape("the device has no name of 1 to 255 characters".to_owned())),
    }
}

fn named(name: &str) -> bool {
    !name.trim().is_empty() && name.chars().count() <= MAX_NAME
}

/// What `JsonConverter` stores as text instead of a number.
fn broken_number(number: &Number) -> Option<&'static str> {
    let text = number.to_string();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().unwrap_or(i64::MAX)),
        None => (text.as_str(), 0),
    };
    let decimals = mantissa.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    if decimals == 0 && exponent == 0 {
        return number.as_i64().is_none().then_some("beyond 64 bits: stored as text");
    }
    let scale = i64::try_from(decimals).unwrap_or(i64::MAX).saturating_sub(exponent);
    (scale > MAX_DECIMALS as i64).then_some("more than 16 decimals: stored as text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn rules() -> (GatewayRules, Client) {
        let rules = GatewayRules {
            inbox: Inbox::default(),
            access_token: "secret".to_owned(),
            mode: Mutex::new(Mode::Accept),
            devices: Mutex::default(),
        };
        let client = Client {
            session: 1,
            client_id: "c".to_owned(),
            username: Some("secret".to_owned()),
            password: None,
            clean_start: true,
            keep_alive: 30,
            tls: None,
        };
        (rules, client)
    }

    fn publish(topic: &str, body: &str) -> Publish {
        Publish::new(topic, QoS::AtLeastOnce, body.as_bytes().to_vec(), None)
    }

    #[test]
    fn telemetry_after_connect_is_recorded_without_complaint() {
        let (rules, client) = rules();
        rules.publish(&client, &publish("v1/gateway/connect", r#"{"device":"D","type":"truck"}"#));
        let body = r#"{"D":[{"ts":1700000000123,"values":{"position.speed":43.5}}]}"#;
        assert_eq!(
            rules.publish(&client, &publish("v1/gateway/telemetry", body)).reply,
            Answer::accept().reply
        );
        let values = json!({ "position.speed": 43.5 }).as_object().unwrap().clone();
        assert_eq!(
            rules.inbox.all(),
            [
                Received::DeviceConnected { device: "D".to_owned(), device_type: Some("truck".to_owned()) },
                Received::Telemetry { device: "D".to_owned(), ts: 1_700_000_000_123, values },
            ]
        );
    }

    #[test]
    fn what_the_server_would_lose_or_refuse_is_a_violation() {
        let format = PubAckReason::PayloadFormatInvalid;
        for (body, ack, expected) in [
            (r#"{"D":[{"ts":1700000000,"values":{"a":1}}]}"#, None, "no milliseconds"),
            (r#"{"D":[{"ts":1700000000123,"values":{"a":null}}]}"#, None, "null is dropped"),
            (r#"{"D":[{"ts":1700000000123,"values":{"a":0.30000000000000004}}]}"#, None, "16 decimals"),
            (r#"{"D":[{"ts":1700000000123,"values":{"a":1e-20}}]}"#, None, "16 decimals"),
            (r#"{"D":[{"ts":1700000000123,"values":{"a":9223372036854775808}}]}"#, None, "64 bits"),
            (r#"{"D":[{"ts":1700000000123,"values":{" ":1}}]}"#, None, "1 to 255"),
            (r#"{"D":[{"ts":1700000000123,"values":{}}]}"#, None, "without values"),
            (r#"{"E":[{"ts":1700000000123,"values":{"a":1}}]}"#, None, "before its connect"),
            (r#"{"D":[{"ts":1700000000123.5,"values":{"a":1}}]}"#, Some(format), "not a whole number"),
            (r#"{"D":[{"a":1}]}"#, Some(format), "no ts and values"),
            ("{", Some(format), "not JSON"),
        ] {
            let (rules, client) = rules();
            rules.publish(&client, &publish("v1/gateway/connect", r#"{"device":"D"}"#));
            let reply = rules.publish(&client, &publish("v1/gateway/telemetry", body)).reply;
            let Reply::Ack(reason, _) = reply else { panic!("{body}: {reply:?}") };
            assert_eq!(reason, ack.unwrap_or(PubAckReason::Success), "{body}");
            let violations = rules.inbox.violations();
            assert!(violations.len() == 1 && violations[0].contains(expected), "{body}: {violations:?}");
        }
    }

    #[test]
    fn a_wrong_shape_costs_the_connection() {
        let (rules, client) = rules();
        for body in ["{}", "[]", r#"{"D":[],"E":[]}"#, r#"{"D":{}}"#, r#"{"":[]}"#] {
            let reply = rules.publish(&client, &publish("v1/gateway/telemetry", body)).reply;
            assert!(matches!(reply, Reply::Disconnect(Some(_), _)), "{body}: {reply:?}");
        }
    }

    #[test]
    fn only_the_access_token_enters() {
        let (rules, mut client) = rules();
        assert_eq!(rules.connect(&client), ConnectReturnCode::Success);
        client.username = Some("other".to_owned());
        assert_eq!(rules.connect(&client), ConnectReturnCode::BadUserNamePassword);
    }
}
