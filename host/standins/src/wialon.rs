//! A Wialon Retranslator receiver: TCP, one byte 0x11 per packet.
//!
//! The bytes are read by `destination::wialon::decode`, which was written
//! apart from the encoder; the rules that a decoder must not enforce, because
//! real senders break them, are checked here.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::{Buf, BytesMut};
use destination::wialon::decode::{decode, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::plug::Plug;
use super::{Inbox, Received, lock};

pub use destination::wialon::decode::{Block, Packet, Posinfo, Value};

/// The answer to one correct packet.
const TAKEN: u8 = 0x11;
/// Traccar cuts a connection that has more unread bytes than these, so no
/// packet may be longer, its size field included.
pub const MAX_PACKET: usize = 1024;

/// How the receiver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Records the packet and answers 0x11.
    Accept,
    /// Reads and says nothing; records nothing.
    Silent,
    /// Closes the connection at each packet; records nothing.
    Close,
    /// Answers each packet with this byte; records nothing.
    Answer(u8),
}

/// The running receiver.
#[derive(Clone)]
pub struct WialonStandin {
    plug: Plug,
    mode: Arc<Mutex<Mode>>,
}

impl WialonStandin {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start(inbox: Inbox) -> io::Result<Self> {
        let mode = Arc::new(Mutex::new(Mode::Accept));
        let shared = Arc::clone(&mode);
        let plug = Plug::start(move |stream| connection(stream, inbox.clone(), Arc::clone(&shared))).await?;
        Ok(Self { plug, mode })
    }

    /// For `[destination] url`.
    pub fn url(&self) -> String {
        format!("tcp://{}", self.plug.address())
    }

    /// Its socket: connections counted, unplug and plug.
    pub fn plug(&self) -> &Plug {
        &self.plug
    }

    /// Behaves like this from the next packet on.
    pub fn set_mode(&self, mode: Mode) {
        *lock(&self.mode) = mode;
    }
}

async fn connection(mut stream: TcpStream, inbox: Inbox, mode: Arc<Mutex<Mode>>) {
    let mut input = BytesMut::new();
    loop {
        match frame(&input, u32::try_from(MAX_PACKET - 4).unwrap_or(u32::MAX)) {
            Err(error) => {
                inbox.violation(format!("wialon: {error}"));
                return;
            }
            Ok(None) => match stream.read_buf(&mut input).await {
                // In the middle of a packet too: the sender was cut off, it broke no rule.
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Ok(Some(length)) => {
                let packet = decode(&input[..length]);
                input.advance(length);
                let packet = match packet {
                    Ok(packet) => packet,
                    Err(error) => {
                        inbox.violation(format!("wialon: {error}"));
                        return;
                    }
                };
                let mode = *lock(&mode);
                let answer = match mode {
                    Mode::Silent => continue,
                    Mode::Close => return,
                    Mode::Answer(byte) => byte,
                    Mode::Accept => {
                        for rule in broken_rules(&packet) {
                            inbox.violation(format!("wialon: packet of {:?}: {rule}", packet.uid));
                        }
                        inbox.record(Received::Packet(packet));
                        TAKEN
                    }
                };
                if stream.write_all(&[answer]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What the document asks for beyond a readable packet.
fn broken_rules(packet: &Packet) -> Vec<String> {
    let mut broken = Vec::new();
    let mut names = HashSet::new();
    let mut expected_flags = 0;
    for block in &packet.blocks {
        let name = block.name.as_str();
        if !names.insert(name) {
            broken.push(format!("{name:?} occurs twice"));
        }
        if name.len() > 38 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            broken.push(format!("the name {name:?} is not 1 to 38 printable ASCII characters"));
        }
        let fixed = matches!(name, "posinfo" | "avl_inputs" | "avl_outputs" | "avl_driver");
        if block.hidden != fixed {
            broken.push(format!("{name:?} has the hidden attribute {}", u8::from(block.hidden)));
        }
        expected_flags |= match name {
            "posinfo" => 0x01,
            "avl_inputs" => 0x02,
            "avl_outputs" => 0x04,
            "avl_driver" => 0x20,
            _ => 0,
        };
        match (&block.value, name) {
            (Value::Posinfo(position), _) => broken.extend(broken_position(position)),
            (Value::Int32(_), "avl_inputs" | "avl_outputs") | (Value::Text(_), "avl_driver") => {}
            (_, "avl_inputs" | "avl_outputs" | "avl_driver" | "posinfo") => {
                broken.push(format!("{name:?} has the wrong data type"));
            }
            (Value::Text(text), _) if !text.is_ascii() => {
                broken.push(format!("the text of {name:?} is not ASCII"));
            }
            (Value::Double(number), _) if !number.is_finite() => {
                broken.push(format!("{name:?} is {number}"));
            }
            _ => {}
        }
    }
    // 0x10 is the alarm, which has no block.
    if packet.flags & !0x10 != expected_flags {
        broken.push(format!("the flags are {:#04x}, the blocks make {expected_flags:#04x}", packet.flags));
    }
    if packet.time > i32::MAX as u32 {
        broken.push(format!("the time {} is beyond a signed 32-bit number", packet.time));
    }
    broken
}

fn broken_position(position: &Posinfo) -> Option<String> {
    let Posinfo { lon, lat, alt, speed, course, sats } = *position;
    let usable = (-180.0..=180.0).contains(&lon)
        && (-90.0..=90.0).contains(&lat)
        && alt.is_finite()
        && speed <= 32_767
        && course < 360
        && sats <= 127;
    (!usable).then(|| format!("posinfo out of range: {position:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    /// A packet of unit "1" with one int32 parameter, by hand from the document.
    fn packet(name: &str, hidden: u8, flags: u32) -> Vec<u8> {
        let mut block = vec![hidden, 3];
        block.extend_from_slice(name.as_bytes());
        block.push(0);
        block.extend_from_slice(&7_i32.to_be_bytes());
        let mut rest = b"1\0".to_vec();
        rest.extend_from_slice(&1_700_000_000_u32.to_be_bytes());
        rest.extend_from_slice(&flags.to_be_bytes());
        rest.extend_from_slice(&0x0BBB_u16.to_be_bytes());
        rest.extend_from_slice(&u32::try_from(block.len()).unwrap().to_be_bytes());
        rest.extend_from_slice(&block);
        let mut bytes = u32::try_from(rest.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(&rest);
        bytes
    }

    async fn started() -> (WialonStandin, Inbox, TcpStream) {
        let inbox = Inbox::default();
        let standin = WialonStandin::start(inbox.clone()).await.unwrap();
        let stream = TcpStream::connect(standin.plug().address()).await.unwrap();
        (standin, inbox, stream)
    }

    #[tokio::test]
    async fn a_packet_is_recorded_and_answered_once() {
        let (_standin, inbox, mut stream) = started().await;
        let bytes = packet("gsm", 0, 0);
        for part in [&bytes[..11], &bytes[11..]] {
            stream.write_all(part).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert_eq!(stream.read_u8().await.unwrap(), 0x11);
        let all = inbox.all();
        assert!(matches!(&all[..], [Received::Packet(packet)] if packet.uid == "1"), "{all:?}");
    }

    #[tokio::test]
    async fn what_the_document_forbids_is_a_violation() {
        for (bytes, expected) in [
            (packet("gsm", 1, 0), "\"gsm\" has the hidden attribute 1"),
            (packet("gsm", 0, 1), "the flags are 0x01, the blocks make 0x00"),
            (packet("avl_inputs", 0, 2), "\"avl_inputs\" has the hidden attribute 0"),
            (packet("two words", 0, 0), "is not 1 to 38 printable ASCII characters"),
        ] {
            let (_standin, inbox, mut stream) = started().await;
            stream.write_all(&bytes).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), 0x11);
            assert!(inbox.violations()[0].contains(expected), "{:?}", inbox.violations());
        }
        let (_standin, inbox, mut stream) = started().await;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(inbox.wait_until(Duration::from_secs(5), |all| !all.is_empty()).await);
        assert!(inbox.violations()[0].contains("packet size"), "{:?}", inbox.violations());
    }

    #[tokio::test]
    async fn modes_change_the_answer_and_record_nothing() {
        let (standin, inbox, mut stream) = started().await;
        standin.set_mode(Mode::Answer(0x22));
        stream.write_all(&packet("gsm", 0, 0)).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 0x22);
        standin.set_mode(Mode::Close);
        stream.write_all(&packet("gsm", 0, 0)).await.unwrap();
        assert!(stream.read_u8().await.is_err());
        assert_eq!(inbox.all(), []);
    }
}
