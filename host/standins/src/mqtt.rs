//! A plain MQTT receiver: takes QoS 1 publishes on allowed topics.

use std::io;
use std::sync::{Arc, Mutex};

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{ConnectReturnCode, PubAckReason, Publish};

use super::mqtt_server::{Answer, Client, MqttServer, Reply, Rules};
use super::plug::Plug;
use super::{Inbox, Received, lock};

/// How the receiver behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Records each publish and acknowledges it.
    Accept,
    /// Answers each publish like this and records nothing.
    Reply(Reply),
    /// Refuses the login with this code; connections that are open stay.
    RefuseLogin(ConnectReturnCode),
    /// Acknowledges with this reason what contains this text, and accepts
    /// the rest.
    RefuseText(String, PubAckReason),
}

/// The running receiver.
#[derive(Clone)]
pub struct MqttStandin {
    server: MqttServer,
    rules: Arc<PlainRules>,
}

struct PlainRules {
    inbox: Inbox,
    mode: Mutex<Mode>,
}

impl MqttStandin {
    /// Starts on a free port of 127.0.0.1; with `tls` every connection is TLS.
    pub async fn start(inbox: Inbox, tls: Option<Arc<rustls::ServerConfig>>) -> io::Result<Self> {
        let rules = Arc::new(PlainRules { inbox, mode: Mutex::new(Mode::Accept) });
        let server = MqttServer::start(Arc::clone(&rules), tls).await?;
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

impl Rules for PlainRules {
    fn connect(&self, _client: &Client) -> ConnectReturnCode {
        match &*lock(&self.mode) {
            Mode::RefuseLogin(code) => *code,
            _ => ConnectReturnCode::Success,
        }
    }

    fn publish(&self, client: &Client, publish: &Publish) -> Answer {
        match &*lock(&self.mode) {
            Mode::Reply(reply) => return Answer::reply(reply.clone()),
            Mode::RefuseText(text, reason)
                if String::from_utf8_lossy(&publish.payload).contains(text.as_str()) =>
            {
                return Answer::ack(*reason, Some("this receiver does not take it".to_owned()));
            }
            _ => {}
        }
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        if publish.qos != QoS::AtLeastOnce || publish.retain {
            let how = format!("{:?}, retain {}", publish.qos, publish.retain);
            self.inbox.violation(format!("mqtt: {} published to {topic:?} with {how}", client.client_id));
        }
        let properties = publish.properties.as_ref().map(|p| p.user_properties.clone()).unwrap_or_default();
        self.inbox.record(Received::Publish { topic, payload: publish.payload.clone(), properties });
        Answer::accept()
    }

    fn broke(&self, client: &Client, how: String) {
        self.inbox.violation(format!("mqtt: {} {how}", client.client_id));
    }
}
