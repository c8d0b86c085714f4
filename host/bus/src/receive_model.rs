//! The acknowledgement window against a broker that keeps one list: publishes
//! in the order in which it sent them, with the connection they went through.
//! Everything is in memory and time is paused.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use journal::{Outcome, Pending, ReadRules, Reader, Settlement, StreamIndex};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::{ConnAck, ConnectReturnCode, Packet};
use settings_reader::MqttUrl;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::super::connection::{Login, read};
use super::super::testing::{publish, settings, stream};
use super::*;
use crate::BusSource;

const STREAM: StreamIndex = StreamIndex(0);
/// That the broker uses: few, so that they come again soon.
const PACKET_IDS: u16 = 40;

#[derive(Clone, Debug)]
struct Plan {
    window: usize,
    /// Bytes that may wait for the journal: mostly fewer than one publish has.
    bytes: usize,
    /// Messages that the journal takes before it makes the bus wait.
    journal: usize,
}

#[derive(Clone, Debug)]
enum Step {
    /// So many publishes in one write.
    Publish(Vec<Kind>),
    /// The stream settles some of what it has read.
    Settle(Vec<usize>),
    /// The connection is cut, and the next one stands at once. The broker sends
    /// again what was not acknowledged, under the same packet identifiers, or
    /// under others where it has lost the session.
    Reconnect { session_lost: bool },
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Wanted,
    Unwanted,
    /// Becomes three messages.
    Array,
}

impl ReferenceStateMachine for Plan {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (1usize..12, 1usize..100, 1usize..30)
            .prop_map(|(window, bytes, journal)| Self { window, bytes, journal })
            .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let kind = prop_oneof![4 => Just(Kind::Wanted), 1 => Just(Kind::Unwanted), 1 => Just(Kind::Array)];
        prop_oneof![
            5 => prop::collection::vec(kind, 1..8).prop_map(Step::Publish),
            6 => prop::collection::vec(any::<usize>(), 1..12).prop_map(Step::Settle),
            1 => any::<bool>().prop_map(|session_lost| Step::Reconnect { session_lost }),
        ]
        .boxed()
    }

    fn apply(plan: Self, _: &Step) -> Self {
        plan
    }
}

/// A publish of the broker on the present connection.
#[derive(Clone, Debug)]
struct Sent {
    pkid: u16,
    number: u32,
    kind: Kind,
    /// How many of its messages have to settle before it may be acknowledged.
    unsettled: usize,
}

struct World {
    runtime: Runtime,
    intake: Intake,
    journal: Journal,
    reader: Reader,
    stopping: CancellationToken,
    /// The broker's end of the present connection, and what it read of a packet.
    socket: DuplexStream,
    buffer: BytesMut,
    connection: u32,
    /// Not acknowledged, in the order of sending.
    sent: Vec<Sent>,
    /// Read by the stream and not settled.
    read: Vec<Pending>,
    numbers: u32,
    last_pkid: u16,
}

impl World {
    fn new(plan: &Plan) -> Self {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let journal = Journal::in_memory(1, plan.journal, usize::MAX);
        let reader = journal.reader(STREAM, ReadRules::default());
        let status = Arc::new(BusStatus::default());
        let stopping = CancellationToken::new();
        let router = Routes::new(Router::new(vec![stream(0, &["wanted"])]));
        let (intake, outlets) = queues(plan.window, plan.bytes, 1_000, status.clone(), stopping.clone());
        let (settle, settling) = outlets.settling;
        let feeding =
            append_loop(outlets.arrivals, settle, router, journal.clone(), status.clone(), stopping.clone());
        runtime.spawn(feeding);
        runtime.spawn(acknowledge(settling, status, CancellationToken::new()));
        let socket = runtime.block_on(connect(&intake, plan.window));
        Self {
            runtime,
            intake,
            journal,
            reader,
            stopping,
            socket,
            buffer: BytesMut::new(),
            connection: 0,
            sent: Vec::new(),
            read: Vec::new(),
            numbers: 0,
            last_pkid: 0,
        }
    }

    fn publish(&mut self, kinds: &[Kind]) {
        let room = usize::from(PACKET_IDS) - self.sent.len();
        let kinds = &kinds[..kinds.len().min(room)];
        for kind in kinds {
            self.numbers += 1;
            let pkid = self.free_pkid();
            self.sent.push(Sent { pkid, number: self.numbers, kind: *kind, unsettled: 0 });
        }
        self.transmit(self.sent.len() - kinds.len());
    }

    /// Brokers count up and give identifiers out again as soon as they may.
    fn free_pkid(&mut self) -> u16 {
        loop {
            self.last_pkid = self.last_pkid % PACKET_IDS + 1;
            if !self.sent.iter().any(|s| s.pkid == self.last_pkid) {
                return self.last_pkid;
            }
        }
    }

    /// Sends what is in the list from there on.
    fn transmit(&mut self, from: usize) {
        let mut wire = BytesMut::new();
        for sent in &mut self.sent[from..] {
            // What a copy carries tells which connection brought it.
            let text = format!("\"{} {}\"", sent.number, self.connection);
            let (topic, payload, messages) = match sent.kind {
                Kind::Wanted => ("wanted", text, 1),
                Kind::Unwanted => ("unwanted", text, 0),
                Kind::Array => ("wanted", format!("[{text},{text},{text}]"), 3),
            };
            sent.unsettled = messages;
            publish(sent.pkid, topic, &payload, &[]).write(&mut wire, None).unwrap();
        }
        self.runtime.block_on(self.socket.write_all(&wire)).unwrap();
        self.settle_down();
    }

    fn settle(&mut self, which: &[usize]) {
        let mut ended = Vec::new();
        for which in which {
            if self.read.is_empty() {
                break;
            }
            let pending = self.read.remove(which % self.read.len());
            let text = String::from_utf8(pending.message.payload.to_vec()).unwrap();
            let (number, connection) = text.trim_matches('"').split_once(' ').unwrap();
            if connection == self.connection.to_string() {
                let number: u32 = number.parse().unwrap();
                let sent = self.sent.iter_mut().find(|s| s.number == number);
                sent.expect("it was acknowledged before it had settled").unsettled -= 1;
            }
            ended.push((pending.position, Outcome::Delivered));
        }
        self.journal.settle(STREAM, Settlement { ended, ..Settlement::default() });
        self.settle_down();
    }

    fn reconnect(&mut self, plan: &Plan, session_lost: bool) {
        self.socket = self.runtime.block_on(async {
            // Its end is noticed before the next one is tried.
            self.socket.shutdown().await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            connect(&self.intake, plan.window).await
        });
        self.buffer.clear();
        self.connection += 1;
        if session_lost {
            self.last_pkid = 0;
            let count = u16::try_from(self.sent.len()).unwrap();
            for (sent, pkid) in self.sent.iter_mut().zip(1..=count) {
                sent.pkid = pkid;
            }
        }
        self.transmit(0);
    }

    /// Until nothing moves any more: paused time goes on when no task has
    /// anything to do. Then what the stream can read and what was acknowledged.
    fn settle_down(&mut self) {
        loop {
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
            let read = self.runtime.block_on(async { self.reader.next(1_000).now_or_never() });
            self.read.extend(read.into_iter().flatten());
            let bytes =
                self.runtime.block_on(async { self.socket.read_buf(&mut self.buffer).now_or_never() });
            if bytes.is_none() {
                break;
            }
            assert!(bytes.unwrap().unwrap() > 0, "the gateway closed the connection");
        }
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(Packet::PubAck(ack)) => {
                    let first = self.sent.first().expect("nothing was left to acknowledge").clone();
                    assert_eq!(ack.pkid, first.pkid, "not in the order of arrival: {:?}", self.sent);
                    assert_eq!(first.unsettled, 0, "acknowledged before it had settled");
                    self.sent.remove(0);
                }
                Ok(Packet::PingReq) => {}
                Ok(other) => panic!("the gateway sent {other:?}"),
                Err(CodecError::InsufficientBytes(_)) => return,
                Err(error) => panic!("the gateway sent garbage: {error}"),
            }
        }
    }
}

/// A connection of the bus to a broker in memory, and the broker's end of it.
async fn connect(intake: &Intake, window: usize) -> DuplexStream {
    let url = MqttUrl { host: "broker".into(), port: 1883, tls: false };
    let settings = settings(BusSource::Mqtt(url.clone()));
    let login = Login { settings: &settings, url: &url };
    let (link, mut eventloop) = login.open(requests(window)).unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let theirs = std::sync::Mutex::new(Some(theirs));
    eventloop.options.set_socket_connector(move |_, _| {
        let end = theirs.lock().unwrap().take();
        async move { end.ok_or_else(|| std::io::ErrorKind::ConnectionRefused.into()) }
    });
    let (connack, connected) = oneshot::channel();
    tokio::spawn(read(eventloop, link, intake.clone(), connack, 0));
    let mut socket = ours;
    let mut buffer = BytesMut::new();
    loop {
        match Packet::read(&mut buffer, None) {
            Ok(Packet::Connect(..)) => break,
            Err(CodecError::InsufficientBytes(_)) => {
                assert!(socket.read_buf(&mut buffer).await.unwrap() > 0);
            }
            other => panic!("expected CONNECT, got {other:?}"),
        }
    }
    let mut wire = BytesMut::new();
    let connack = ConnAck { session_present: true, code: ConnectReturnCode::Success, properties: None };
    Packet::ConnAck(connack).write(&mut wire, None).unwrap();
    socket.write_all(&wire).await.unwrap();
    connected.await.unwrap();
    socket
}

struct Bus;

impl StateMachineTest for Bus {
    type SystemUnderTest = World;
    type Reference = Plan;

    fn init_test(plan: &Plan) -> World {
        World::new(plan)
    }

    fn apply(mut world: World, plan: &Plan, step: Step) -> World {
        match step {
            Step::Publish(kinds) => world.publish(&kinds),
            Step::Settle(which) => world.settle(&which),
            Step::Reconnect { session_lost } => world.reconnect(plan, session_lost),
        }
        world
    }

    fn check_invariants(world: &World, plan: &Plan) {
        // Where the window holds all of them, nothing waits that could go. (In
        // a smaller one the reading waits for a slot, and while it does, what
        // the library has read at once comes before what it is to write.)
        let all_settled = world.sent.iter().all(|s| s.unsettled == 0);
        if !world.sent.is_empty() && world.sent.len() <= plan.window {
            assert!(!all_settled, "settled and not acknowledged: {:?}", world.sent);
        }
        let holding = world.journal.holding().messages;
        assert_eq!(holding, world.read.len() as u64, "everything that the journal holds is read");
    }

    /// Everything settles: everything is acknowledged.
    fn teardown(mut world: World, _: Plan) {
        for _ in 0..10_000 {
            if world.sent.is_empty() {
                break;
            }
            world.settle(&[0]);
        }
        assert!(world.sent.is_empty(), "never acknowledged: {:?}", world.sent);
        world.stopping.cancel();
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_in_order_once_and_only_to_the_connection_that_brought_it(sequential 1..60 => Bus);
}
