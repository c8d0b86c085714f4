//! The five destinations behind one face, for tests that are the same for all.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use destination::wialon::decode::{decode, frame};
use rumqttc::mqttbytes::v5::{ConnectReturnCode, PubAckReason};
use standins::aws::{self, AwsStandin};
use standins::certificates::server_config;
use standins::http::{self, HttpStandin};
use standins::mqtt::{self, MqttStandin};
use standins::mqtt_server::Reply;
use standins::plug::Plug;
use standins::thingsboard::{self, ThingsBoardStandin};
use standins::wialon::{self, WialonStandin};
use standins::{Inbox, Received};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::Certificates;
use crate::proxy::Proxy;

/// The gateway's access token at the ThingsBoard stand-in.
pub const ACCESS_TOKEN: &str = "an-access-token";

/// The device whose messages [`Receiver::refuse_the_poisoned`] refuses.
pub const POISONED: &str = "poisoned";

/// Which destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    AwsIot,
    ThingsBoard,
    Wialon,
    Http,
    Mqtt,
}

/// A stand-in, its inbox, and the stream file that leads to it.
pub struct Receiver {
    /// What it got.
    pub inbox: Inbox,
    /// The stream file.
    pub stream: String,
    standin: Standin,
}

enum Standin {
    AwsIot(AwsStandin),
    ThingsBoard(ThingsBoardStandin),
    Wialon(WialonStandin),
    WialonThatCloses(PickyWialon),
    Http(HttpStandin),
    Mqtt(MqttStandin),
}

/// A way to refuse whatever comes, and a word of the reason that the stream
/// must then give.
pub struct Refusal {
    /// What is said of it.
    pub word: &'static str,
    mode: Mode,
}

enum Mode {
    AwsIot(aws::Mode),
    ThingsBoard(thingsboard::Mode),
    Wialon(wialon::Mode),
    Http(http::Mode),
    Mqtt(mqtt::Mode),
}

impl Receiver {
    /// Starts the stand-in. `folder` is for certificates.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(kind: Kind, folder: &Path) -> Self {
        let inbox = Inbox::default();
        let failed = "the stand-in starts";
        let (standin, settings, destination) = match kind {
            Kind::AwsIot => {
                let certificates = Certificates::create(folder);
                let tls = server_config(&certificates.server, Some(&certificates.authority), &[]);
                let standin = AwsStandin::start(inbox.clone(), tls.expect(failed)).await.expect(failed);
                let lines = format!(
                    "url = \"mqtts://localhost:{}\"\nreject_window = \"200ms\"\ntimeout = \"2s\"\n{}",
                    standin.port(),
                    certificates.client_lines()
                );
                (Standin::AwsIot(standin), "thing_name = \"{ident}\"", lines)
            }
            Kind::ThingsBoard => {
                let standin = ThingsBoardStandin::start(inbox.clone(), ACCESS_TOKEN).await.expect(failed);
                let lines = format!(
                    "url = \"mqtt://localhost:{}\"\naccess_token = {{ env = \"ACCESS_TOKEN\" }}\ntimeout = \"2s\"",
                    standin.port()
                );
                (Standin::ThingsBoard(standin), "", lines)
            }
            Kind::Wialon => {
                let standin = WialonStandin::start(inbox.clone()).await.expect(failed);
                let lines = format!("url = \"{}\"\ntimeout = \"1s\"", standin.url());
                (Standin::Wialon(standin), "", lines)
            }
            Kind::Http => {
                let standin = HttpStandin::start(inbox.clone(), None).await.expect(failed);
                let lines = format!("url = \"http://{}/in\"\ntimeout = \"2s\"", standin.address());
                (Standin::Http(standin), "limit_messages = 10", lines)
            }
            Kind::Mqtt => {
                let standin = MqttStandin::start(inbox.clone(), None).await.expect(failed);
                let lines = format!("url = \"mqtt://localhost:{}\"\ntimeout = \"2s\"", standin.port());
                (Standin::Mqtt(standin), "topic = \"out/{ident}\"", lines)
            }
        };
        Self { inbox, stream: stream_file(kind, settings, &destination), standin }
    }

    /// A Wialon receiver that closes the connection at each packet of
    /// [`POISONED`], which is the only way in which the protocol can refuse.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_wialon_that_closes() -> Self {
        let inbox = Inbox::default();
        let standin = PickyWialon::start(inbox.clone()).await;
        let lines = format!("url = \"tcp://{}\"\ntimeout = \"1s\"", standin.plug.address());
        let stream = stream_file(Kind::Wialon, "", &lines);
        Self { inbox, stream, standin: Standin::WialonThatCloses(standin) }
    }

    /// The stream file for those who reach it through this link.
    pub fn stream_through(&self, link: &Proxy) -> String {
        let port = |address: SocketAddr| format!(":{}", address.port());
        self.stream.replace(&port(self.plug().address()), &port(link.address()))
    }

    /// Its socket.
    pub fn plug(&self) -> &Plug {
        match &self.standin {
            Standin::AwsIot(standin) => standin.plug(),
            Standin::ThingsBoard(standin) => standin.plug(),
            Standin::Wialon(standin) => standin.plug(),
            Standin::WialonThatCloses(standin) => &standin.plug,
            Standin::Http(standin) => standin.plug(),
            Standin::Mqtt(standin) => standin.plug(),
        }
    }

    /// Ways to refuse everything: faults of the destination, faults that look
    /// like the message's own, and closing without a word.
    pub fn refusals(&self) -> Vec<Refusal> {
        let refusal = |word, mode| Refusal { word, mode };
        match &self.standin {
            Standin::AwsIot(_) => {
                use aws::Mode as M;
                vec![
                    refusal("503", Mode::AwsIot(M::Reject(503))),
                    refusal("403", Mode::AwsIot(M::Reject(403))),
                    refusal("400", Mode::AwsIot(M::Reject(400))),
                    refusal("429", Mode::AwsIot(M::Reject(429))),
                    refusal("500", Mode::AwsIot(M::Reject(500))),
                    refusal("closed", Mode::AwsIot(M::Reply(Reply::Close))),
                    refusal("PUBACK", Mode::AwsIot(M::Reply(Reply::Silence))),
                    refusal("not authorised", Mode::AwsIot(M::RefuseLogin(ConnectReturnCode::NotAuthorized))),
                ]
            }
            Standin::ThingsBoard(_) => {
                use thingsboard::Mode as M;
                let ack = |reason| Mode::ThingsBoard(M::Reply(Reply::Ack(reason, None)));
                vec![
                    refusal("quota", ack(PubAckReason::QuotaExceeded)),
                    refusal("not authorised", ack(PubAckReason::NotAuthorized)),
                    refusal("payload format invalid", ack(PubAckReason::PayloadFormatInvalid)),
                    refusal("closed", Mode::ThingsBoard(M::Reply(Reply::Close))),
                    refusal("PUBACK", Mode::ThingsBoard(M::Reply(Reply::Silence))),
                ]
            }
            Standin::Wialon(_) => {
                use wialon::Mode as M;
                vec![
                    refusal("0x22", Mode::Wialon(M::Answer(0x22))),
                    refusal("closed", Mode::Wialon(M::Close)),
                    refusal("no 0x11", Mode::Wialon(M::Silent)),
                ]
            }
            Standin::Http(_) => {
                use http::Mode as M;
                vec![
                    refusal("503", Mode::Http(M::Status(503, Some(1)))),
                    refusal("500", Mode::Http(M::Status(500, None))),
                    refusal("429", Mode::Http(M::Status(429, Some(1)))),
                    refusal("401", Mode::Http(M::Status(401, None))),
                    refusal("404", Mode::Http(M::Status(404, None))),
                    refusal("400", Mode::Http(M::Status(400, None))),
                    refusal("", Mode::Http(M::Close)),
                    refusal("no answer", Mode::Http(M::Slow(Duration::from_secs(4)))),
                ]
            }
            Standin::Mqtt(_) => {
                use mqtt::Mode as M;
                let ack = |reason| Mode::Mqtt(M::Reply(Reply::Ack(reason, None)));
                vec![
                    refusal("quota", ack(PubAckReason::QuotaExceeded)),
                    refusal("not authorised", ack(PubAckReason::NotAuthorized)),
                    refusal("payload format invalid", ack(PubAckReason::PayloadFormatInvalid)),
                    refusal("PUBACK", Mode::Mqtt(M::Reply(Reply::Silence))),
                    refusal(
                        "bad user name",
                        Mode::Mqtt(M::RefuseLogin(ConnectReturnCode::BadUserNamePassword)),
                    ),
                ]
            }
            Standin::WialonThatCloses(_) => Vec::new(),
        }
    }

    /// Refuses like that from now on; connections are cut, so that refused
    /// logins are felt, too.
    ///
    /// # Panics
    /// On a refusal of another kind of receiver.
    pub async fn refuse(&self, refusal: &Refusal) {
        self.set_mode(&refusal.mode);
        self.plug().cut().await.expect("the stand-in runs");
    }

    /// Takes everything again.
    pub fn accept(&self) {
        match &self.standin {
            Standin::AwsIot(standin) => standin.set_mode(aws::Mode::Accept),
            Standin::ThingsBoard(standin) => standin.set_mode(thingsboard::Mode::Accept),
            Standin::Wialon(standin) => standin.set_mode(wialon::Mode::Accept),
            Standin::WialonThatCloses(_) => {}
            Standin::Http(standin) => standin.set_mode(http::Mode::Accept),
            Standin::Mqtt(standin) => standin.set_mode(mqtt::Mode::Accept),
        }
    }

    /// Refuses what is of the device [`POISONED`], for good. Returns what it
    /// says of it.
    pub fn refuse_the_poisoned(&self) -> &'static str {
        let poisoned = POISONED.to_owned();
        let invalid = PubAckReason::PayloadFormatInvalid;
        match &self.standin {
            Standin::AwsIot(standin) => {
                standin.set_mode(aws::Mode::RejectThing(poisoned, 400));
                "on command"
            }
            Standin::ThingsBoard(standin) => {
                standin.set_mode(thingsboard::Mode::RefuseDevice(poisoned, invalid));
                "device poisoned is refused"
            }
            Standin::Wialon(_) => panic!("a Wialon receiver cannot refuse one packet"),
            Standin::WialonThatCloses(_) => "closed the connection instead of answering",
            Standin::Http(standin) => {
                standin.set_mode(http::Mode::RefuseText(poisoned));
                "the message of poisoned is not acceptable"
            }
            Standin::Mqtt(standin) => {
                standin.set_mode(mqtt::Mode::RefuseText(poisoned, invalid));
                "this receiver does not take it"
            }
        }
    }

    /// The field `n` of a thing's shadow, where it has one.
    ///
    /// # Panics
    /// On a receiver without shadows.
    pub fn shadow_number(&self, thing: &str) -> Option<u64> {
        let Standin::AwsIot(standin) = &self.standin else { panic!("only AWS has shadows") };
        standin.shadow(thing, None)?["reported"]["n"].as_u64()
    }

    /// Takes everything, and says so several times, as ThingsBoard did before
    /// 4.2.1.
    ///
    /// # Panics
    /// On another receiver than ThingsBoard.
    pub fn acknowledge_each(&self, times: u8) {
        let Standin::ThingsBoard(standin) = &self.standin else { panic!("only ThingsBoard did that") };
        standin.set_mode(thingsboard::Mode::Acks(times));
    }

    fn set_mode(&self, mode: &Mode) {
        match (&self.standin, mode) {
            (Standin::AwsIot(standin), Mode::AwsIot(mode)) => standin.set_mode(mode.clone()),
            (Standin::ThingsBoard(standin), Mode::ThingsBoard(mode)) => standin.set_mode(mode.clone()),
            (Standin::Wialon(standin), Mode::Wialon(mode)) => standin.set_mode(*mode),
            (Standin::Http(standin), Mode::Http(mode)) => standin.set_mode(mode.clone()),
            (Standin::Mqtt(standin), Mode::Mqtt(mode)) => standin.set_mode(mode.clone()),
            _ => panic!("a refusal of another receiver"),
        }
    }
}

impl Kind {
    /// All five.
    pub const ALL: [Self; 5] = [Self::AwsIot, Self::ThingsBoard, Self::Wialon, Self::Http, Self::Mqtt];

    /// `[destination] type` and the official adapter for it.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::AwsIot => ("aws-iot", "aws-shadow"),
            Self::ThingsBoard => ("thingsboard", "thingsboard-gateway"),
            Self::Wialon => ("wialon", "wialon-retranslator"),
            Self::Http => ("http", "http-json"),
            Self::Mqtt => ("mqtt", "mqtt-json"),
        }
    }
}

/// A stream of all devices through the official adapter.
pub fn stream_file(kind: Kind, settings: &str, destination: &str) -> String {
    let (type_name, adapter) = kind.names();
    format!(
        "topics = [\"flespi/message/gw/devices/+\"]\nkey = \"ident\"\n\
         [script]\nadapter = \"{adapter}\"\n[script.settings]\n{settings}\n\
         [destination]\ntype = \"{type_name}\"\n{destination}\n"
    )
}

/// See [`Receiver::start_wialon_that_closes`].
struct PickyWialon {
    plug: Plug,
}

impl PickyWialon {
    async fn start(inbox: Inbox) -> Self {
        let plug = Plug::start(move |stream| Self::connection(stream, inbox.clone()));
        Self { plug: plug.await.expect("a listening socket") }
    }

    async fn connection(mut stream: TcpStream, inbox: Inbox) {
        let mut input = Vec::new();
        while stream.read_buf(&mut input).await.is_ok_and(|count| count > 0) {
            while let Some(length) = frame(&input, 1020).expect("a frame") {
                let packet = decode(&input[..length]).expect("a packet");
                input.drain(..length);
                if packet.uid == POISONED {
                    return;
                }
                inbox.record(Received::Packet(packet));
                if stream.write_all(&[0x11]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The address of a port that never has a listener.
pub fn dead_end() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}
