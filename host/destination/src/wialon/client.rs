//! The sending side: one packet, one write, one 0x11.
//!
//! The 0x11 names no packet and a bad packet has no answer of its own (silence
//! or a close), so answers can only be counted. With one packet in flight
//! there is nothing to count wrong; whatever else arrives means that the count
//! is off and the connection is of no more use.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::WialonSettings;
use crate::{Connection, Delivery, DeliveryId, Destination, Fault, Verdict};

/// "Packet received", the only answer that the protocol knows.
const ACCEPTED: u8 = 0x11;

/// Size field, and what it counts at least: a uid of one letter with its NUL,
/// time, bit mask.
const SIZE_FIELD: usize = 4;
const SMALLEST: usize = 10;

/// A Wialon Retranslator destination.
pub struct WialonDestination {
    settings: WialonSettings,
}

struct WialonConnection {
    socket: TcpStream,
    place: String,
    timeout: Duration,
    /// The packet whose answer is awaited, and until when.
    in_flight: Option<(DeliveryId, Instant)>,
}

impl WialonDestination {
    /// A destination with these settings.
    pub fn new(settings: WialonSettings) -> Self {
        Self { settings }
    }

    fn place(&self) -> String {
        let WialonSettings { host, port, .. } = &self.settings;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Whether the bytes are one packet by their size field.
fn check_packet(body: &[u8]) -> Result<(), String> {
    let Some((size, rest)) = body.split_first_chunk::<SIZE_FIELD>() else {
        return Err(format!(
            "a body of {} bytes is not a Wialon packet, the size field alone has 4",
            body.len()
        ));
    };
    let size = u32::from_le_bytes(*size);
    if usize::try_from(size) != Ok(rest.len()) {
        return Err(format!(
            "the size field of the Wialon packet says {size}, but {} bytes follow it; a delivery is one whole packet",
            rest.len()
        ));
    }
    if rest.len() < SMALLEST {
        return Err(format!(
            "the Wialon packet has {size} bytes after its size field, the smallest has {SMALLEST}"
        ));
    }
    Ok(())
}

#[async_trait]
impl Destination for WialonDestination {
    fn window(&self) -> usize {
        1
    }

    fn check(&self, delivery: &Delivery) -> Result<(), String> {
        if let Some(target) = &delivery.target {
            return Err(format!(
                "target {target:?}: Wialon Retranslator knows no targets, the uid is in the packet"
            ));
        }
        check_packet(&delivery.body)
    }

    async fn connect(&self, _lane: u32) -> Result<Box<dyn Connection>, Fault> {
        let place = self.place();
        let limit = self.settings.timeout;
        let address = (self.settings.host.as_str(), self.settings.port);
        let opened = timeout(limit, async {
            let socket = TcpStream::connect(address).await?;
            // A packet must not wait for more: the next one waits for its answer.
            socket.set_nodelay(true)?;
            Ok::<_, io::Error>(socket)
        });
        match opened.await {
            Ok(Ok(socket)) => {
                Ok(Box::new(WialonConnection { socket, place, timeout: limit, in_flight: None }))
            }
            Ok(Err(error)) => Err(Fault::transient(format!("cannot connect to {place}: {error}"))),
            Err(_) => Err(Fault::transient(format!("cannot connect to {place} within {limit:?}"))),
        }
    }
}

#[async_trait]
impl Connection for WialonConnection {
    async fn send(&mut self, id: DeliveryId, delivery: &Delivery) -> Result<(), Fault> {
        // A byte that is here already would be taken for the answer to this packet.
        let mut early = [0; 1];
        match self.socket.try_read(&mut early) {
            Ok(0) => return Err(self.closed()),
            Ok(_) => return Err(self.unasked(early[0])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                return Err(Fault::transient(format!("connection to {} broke: {error}", self.place)));
            }
        }
        let deadline = Instant::now() + self.timeout;
        match timeout_at(deadline, self.socket.write_all(&delivery.body)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(Fault::transient(format!("cannot send to {}: {error}", self.place)));
            }
            Err(_) => {
                return Err(Fault::transient(format!(
                    "cannot send to {} within {:?}",
                    self.place, self.timeout
                )));
            }
        }
        self.in_flight = Some((id, deadline));
        Ok(())
    }

    async fn next(&mut self) -> Result<(DeliveryId, Verdict), Fault> {
        // Two bytes of room: one more than an answer has.
        let mut answer = [0; 2];
        let Some((id, deadline)) = self.in_flight else {
            return Err(match self.socket.read(&mut answer).await {
                Ok(0) => self.closed(),
                Ok(_) => self.unasked(answer[0]),
                Err(error) => Fault::transient(format!("connection to {} broke: {error}", self.place)),
            });
        };
        let place = &self.place;
        let said = match timeout_at(deadline, self.socket.read(&mut answer)).await {
            Ok(Ok(1)) if answer[0] == ACCEPTED => {
                self.in_flight = None;
                return Ok((id, Verdict::Delivered));
            }
            Ok(Ok(0)) => format!("{place} closed the connection instead of answering 0x11"),
            Ok(Ok(1)) => format!("{place} answered 0x{:02x} instead of 0x11", answer[0]),
            Ok(Ok(_)) => format!("{place} answered more than one byte to one packet"),
            Ok(Err(error)) => format!("connection to {place} broke before the answer: {error}"),
            Err(_) => format!("no 0x11 from {place} within {:?}", self.timeout),
        };
        Err(Fault::unexplained(said))
    }

    async fn close(self: Box<Self>) {}
}

impl WialonConnection {
    /// Nothing was in flight, so no delivery is under suspicion.
    fn closed(&self) -> Fault {
        Fault::transient(format!("{} closed the connection", self.place))
    }

    fn unasked(&self, byte: u8) -> Fault {
        Fault::transient(format!(
            "{} sent 0x{byte:02x} without having been sent a packet; is it a Wialon Retranslator receiver?",
            self.place
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use tokio::net::TcpListener;

    use super::*;
    use crate::FaultKind;

    fn packet(uid: &str) -> Delivery {
        let mut rest = uid.as_bytes().to_vec();
        rest.extend([0; 9]);
        let mut body = u32::try_from(rest.len()).unwrap().to_le_bytes().to_vec();
        body.extend(rest);
        Delivery { target: None, headers: vec![], body: Bytes::from(body), identity: None }
    }

    /// A receiver that reads one packet per answer in the list and then closes.
    async fn receiver(greeting: &'static [u8], answers: &'static [&'static [u8]]) -> WialonDestination {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.write_all(greeting).await.unwrap();
            for answer in answers {
                let mut size = [0; 4];
                socket.read_exact(&mut size).await.unwrap();
                let mut rest = vec![0; u32::from_le_bytes(size) as usize];
                socket.read_exact(&mut rest).await.unwrap();
                socket.write_all(answer).await.unwrap();
                if answer.is_empty() {
                    // Silent, not gone.
                    std::future::pending::<()>().await;
                }
            }
        });
        let timeout = Duration::from_millis(500);
        WialonDestination::new(WialonSettings { host: "127.0.0.1".into(), port, timeout })
    }

    async fn exchange(connection: &mut Box<dyn Connection>, id: u64) -> Result<(DeliveryId, Verdict), Fault> {
        connection.send(DeliveryId(id), &packet("7001")).await?;
        connection.next().await
    }

    #[tokio::test]
    async fn one_0x11_is_delivered() {
        let destination = receiver(b"", &[&[0x11], &[0x11]]).await;
        let mut connection = destination.connect(0).await.unwrap();
        assert_eq!(exchange(&mut connection, 1).await, Ok((DeliveryId(1), Verdict::Delivered)));
        assert_eq!(exchange(&mut connection, 2).await, Ok((DeliveryId(2), Verdict::Delivered)));
        let fault = connection.next().await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Transient, "an idle close accuses no delivery: {fault}");
    }

    #[tokio::test]
    async fn anything_else_is_unexplained() {
        let cases: [(&'static [&'static [u8]], &str); 3] = [
            (&[b"\xf0"], "answered 0xf0 instead of 0x11"),
            (&[b"\x11\x11"], "more than one byte"),
            (&[b""], "no 0x11 from"),
        ];
        for (answers, words) in cases {
            let mut connection = receiver(b"", answers).await.connect(0).await.unwrap();
            let fault = exchange(&mut connection, 1).await.unwrap_err();
            assert_eq!(fault.kind, FaultKind::Unexplained);
            assert!(fault.reason.contains(words), "{fault}");
        }
    }

    #[tokio::test]
    async fn a_close_instead_of_an_answer_is_unexplained() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let timeout = Duration::from_secs(5);
        let destination = WialonDestination::new(WialonSettings { host: "127.0.0.1".into(), port, timeout });
        let mut connection = destination.connect(0).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        connection.send(DeliveryId(1), &packet("7001")).await.unwrap();
        let mut read = vec![0; packet("7001").body.len()];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(read, packet("7001").body);
        drop(socket);
        let fault = connection.next().await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unexplained);
        assert!(fault.reason.contains("closed the connection instead of answering"), "{fault}");
    }

    #[tokio::test]
    async fn bytes_before_any_packet_are_never_taken_for_an_answer() {
        let mut connection = receiver(b"\x11", &[b"\x11"]).await.connect(0).await.unwrap();
        let fault = connection.next().await.unwrap_err();
        assert!(fault.reason.contains("without having been sent a packet"), "{fault}");
        assert_eq!(fault.kind, FaultKind::Transient);
    }

    #[tokio::test]
    async fn an_unreachable_receiver_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let timeout = Duration::from_secs(5);
        let destination = WialonDestination::new(WialonSettings { host: "127.0.0.1".into(), port, timeout });
        let fault = destination.connect(0).await.err().unwrap();
        assert_eq!(fault.kind, FaultKind::Transient);
        assert!(fault.reason.starts_with(&format!("cannot connect to 127.0.0.1:{port}: ")), "{fault}");
    }

    #[test]
    fn only_whole_packets_are_let_through() {
        let destination = WialonDestination::new(WialonSettings {
            host: "h".into(),
            port: 1,
            timeout: Duration::from_secs(1),
        });
        let whole = packet("7001");
        assert_eq!(destination.check(&whole), Ok(()));
        let with = |body: Vec<u8>| Delivery { body: body.into(), ..whole.clone() };
        for (body, words) in [
            (vec![], "0 bytes is not a Wialon packet"),
            (vec![1, 0, 0], "3 bytes is not a Wialon packet"),
            (whole.body[..whole.body.len() - 1].to_vec(), "says 13, but 12 bytes follow"),
            ([&whole.body[..], &whole.body[..]].concat(), "says 13, but 30 bytes follow"),
            (vec![1, 0, 0, 0, 7], "the smallest has 10"),
        ] {
            let error = destination.check(&with(body)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let aimed = Delivery { target: Some("x".into()), ..whole.clone() };
        assert!(destination.check(&aimed).is_err());
    }
}
