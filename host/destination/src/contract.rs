//! The contract that every kind of destination keeps.
//!
//! A lane owns at most one [`Connection`]. It hands over deliveries with
//! [`Connection::send`] while fewer than [`Destination::window`] are unsettled
//! and collects their verdicts with [`Connection::next`]. The lane sends again
//! what is unsettled when the connection ends: **the lane's outbox is the only
//! re-sender**, a connection never retries on its own.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use settings_reader::SecretError;

/// One thing to transmit, as the script made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// MQTT topic, or HTTP path and query below the stream's URL; none: the
    /// destination's own.
    pub target: Option<String>,
    /// HTTP headers, MQTT 5 user properties, or what the destination
    /// consumes.
    pub headers: Vec<(String, String)>,
    /// The bytes to transmit.
    pub body: Bytes,
    /// Given by the lane, where [`Destination::wants_identity`].
    pub identity: Option<Identity>,
}

/// What tells the far side that it has had a delivery before. The same for
/// every attempt to send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// 32 hexadecimal digits. An equal key means equal target and body.
    pub key: String,
    /// Where the messages that it carries are in the journal, `12/0-5,13/0`;
    /// printable ASCII, at most about 280 bytes.
    pub positions: String,
}

impl Delivery {
    /// The first header of that name, compared without regard to ASCII case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// Names a delivery between a lane and its connection. Unique within a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);

/// What the far side said of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The far side took it, in the words of its protocol.
    Delivered,
    /// A message fault: the far side will never take these bytes.
    Refused(Reply),
    /// A destination fault that names this delivery while the connection
    /// stays usable (HTTP 503, AWS 429): it is sent again later.
    Deferred(Fault),
}

/// What the far side answered, for a person: status or reason code first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply(pub String);

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a connection or a delivery failed without the far side refusing the
/// delivery itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How the lane goes on.
    pub kind: FaultKind,
    /// Where an operator has to look, if one has to.
    pub cause: Option<Cause>,
    /// For a person: what failed, where (never a secret).
    pub reason: String,
    /// The far side asked for this pause at least.
    pub retry_after: Option<Duration>,
}

/// What an operator has to look after when a fault is persistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Who the gateway says it is, or what it is allowed: 401, 403, bad user
    /// name or password, not authorised.
    Credentials,
    /// Certificates, or a far side that speaks no TLS.
    Tls,
    /// The address is answered, and nothing is there: 404, 410.
    NotFound,
    /// What the stream's file says cannot be used with this far side.
    Configuration,
    /// Another client has taken the client id over.
    TakenOver,
    /// Something answers that is not what the destination speaks with.
    UnexpectedAnswer,
}

/// The kinds of [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Expected to pass without anybody's help: refused connection, time-out
    /// while connecting, HTTP 5xx, 429.
    Transient,
    /// Needs an operator: refused credentials, TLS, HTTP 401, 403, 404, a
    /// missing file. Retried for ever all the same; the stream is `blocked`.
    Persistent,
    /// The connection ended, or an answer did not come in time, and the far
    /// side did not say why: one of the deliveries in flight may be the cause.
    Unexplained,
}

impl Fault {
    /// A fault that passes by itself.
    pub fn transient(reason: impl Into<String>) -> Self {
        Self { kind: FaultKind::Transient, cause: None, reason: reason.into(), retry_after: None }
    }

    /// A fault that needs an operator.
    pub fn persistent(cause: Cause, reason: impl Into<String>) -> Self {
        Self { kind: FaultKind::Persistent, cause: Some(cause), reason: reason.into(), retry_after: None }
    }

    /// The far side hung up or fell silent with deliveries in flight.
    pub fn unexplained(reason: impl Into<String>) -> Self {
        Self { kind: FaultKind::Unexplained, cause: None, reason: reason.into(), retry_after: None }
    }

    /// The same fault with the pause that the far side asked for.
    pub fn after(mut self, pause: Option<Duration>) -> Self {
        self.retry_after = pause;
        self
    }
}

impl From<SecretError> for Fault {
    fn from(error: SecretError) -> Self {
        Self::persistent(Cause::Configuration, error.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// A destination as one stream has configured it. Shared by its lanes.
#[async_trait]
pub trait Destination: Send + Sync + 'static {
    /// Most deliveries that may be unsettled on one connection. At least 1.
    fn window(&self) -> usize;

    /// Whether the delivery may be sent at all (topic rules, forbidden
    /// headers, size). The error is the reason of the rejection; it names what
    /// was found and what is allowed. Called once, before the first send.
    fn check(&self, delivery: &Delivery) -> Result<(), String>;

    /// Whether [`Delivery::identity`] is sent: working it out costs a hash of
    /// the body.
    fn wants_identity(&self) -> bool {
        false
    }

    /// Deliveries with the same slot are never in flight together, and the
    /// next one waits until the one before has settled. None: no restriction.
    fn slot(&self, _delivery: &Delivery) -> Option<String> {
        None
    }

    /// One delivery with the effect of `older` followed by `newer`, for two
    /// that wait for the same slot; none where they cannot be merged.
    fn merge(&self, _older: &Delivery, _newer: &Delivery) -> Option<Delivery> {
        None
    }

    /// The files whose content a new connection makes use of: certificates,
    /// keys, secrets. What they held when they were first needed serves every
    /// connection of this value.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The same destination with what its files say now; none where it has no
    /// files. Nothing is opened. Blocks.
    fn renewed(&self) -> Result<Option<Arc<dyn Destination>>, Fault> {
        Ok(None)
    }

    /// Whether the far side lets the gateway in, found out by a connection on
    /// which nothing is sent. `lane` is a number that no lane has, so that
    /// theirs are left alone.
    async fn prove(&self, lane: u32) -> Result<(), Fault> {
        self.connect(lane).await?.close().await;
        Ok(())
    }

    /// Opens the connection of lane number `lane` and returns when it is ready
    /// to send: logged in, subscribed. Bounded in time by the destination's
    /// own time-out. Dropping the future abandons the attempt.
    async fn connect(&self, lane: u32) -> Result<Box<dyn Connection>, Fault>;
}

/// One open connection of a lane.
#[async_trait]
pub trait Connection: Send {
    /// Hands one delivery over; returns when it is on its way, may wait for
    /// pacing (at most about a second). After an error the connection is of
    /// no more use and is dropped.
    async fn send(&mut self, id: DeliveryId, delivery: &Delivery) -> Result<(), Fault>;

    /// The next verdict. Pending while nothing is in flight, except that the
    /// end of the connection is reported at once. Safe to cancel: a verdict is
    /// lost by no select. An error ends the connection; everything unsettled
    /// is sent again by the lane on the next one.
    async fn next(&mut self) -> Result<(DeliveryId, Verdict), Fault>;

    /// Says goodbye where the protocol knows a way; bounded in time.
    async fn close(self: Box<Self>);
}
