//! The acknowledgement window against a broker that keeps one list: publishes
//! in the order in which it sent them, with the connection they went through.
//! The journal is on a simulated disk and time is paused.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::BytesMut;
use journal::{Outcome, Pending, ReadRules, Reader, Settlement, Simulated, StreamIndex};
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
    /// Bytes that the journal holds before it makes the bus wait.
    journal: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// So many publishes in one write.
    Publish(Vec<Kind>),
    /// The stream settles some of the messages that it has read.
    Settle(Vec<usize>),
    /// The journal commits nothing from now on, or everything again.
    Hold(bool),
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

impl Kind {
    /// Messages for the stream.
    fn messages(self) -> usize {
        match self {
            Self::Wanted => 1,
            Self::Unwanted => 0,
            Self::Array => 3,
        }
    }
}

impl ReferenceStateMachine for Plan {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (1usize..12, 1usize..100, 12u64..360)
            .prop_map(|(window, bytes, journal)| Self { window, bytes, journal })
            .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let kind = prop_oneof![4 => Just(Kind::Wanted), 1 => Just(Kind::Unwanted), 1 => Just(Kind::Array)];
        prop_oneof![
            5 => prop::collection::vec(kind, 1..8).prop_map(Step::Publish),
            6 => prop::collection::vec(any::<usize>(), 1..12).prop_map(Step::Settle),
            2 => any::<bool>().prop_map(Step::Hold),
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
    /// It has messages that came while no commit was made.
    held: bool,
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
    /// How many messages of each publish the stream has read, copies included.
    stored: BTreeMap<u32, usize>,
    /// The publishes that were acknowledged.
    acknowledged: Vec<(u32, Kind)>,
    /// The journal commits nothing.
    held: bool,
    numbers: u32,
    last_pkid: u16,
}

impl World {
    fn new(plan: &Plan) -> Self {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let journal = Journal::simulated(Simulated { max_backlog: plan.journal, ..Simulated::new(1) });
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
            stored: BTreeMap::new(),
            acknowledged: Vec::new(),
            held: false,
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
            self.sent.push(Sent { pkid, number: self.numbers, kind: *kind, held: false });
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
            let (topic, payload) = match sent.kind {
                Kind::Wanted => ("wanted", text),
                Kind::Unwanted => ("unwanted", text),
                Kind::Array => ("wanted", format!("[{text},{text},{text}]")),
            };
            sent.held = self.held && sent.kind.messages() > 0;
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
            ended.push((pending.position, Outcome::Delivered));
        }
        self.journal.settle(STREAM, Settlement { ended, ..Settlement::default() });
        self.settle_down();
    }

    fn hold(&mut self, hold: bool) {
        self.held = hold;
        if !hold {
            self.sent.iter_mut().for_each(|sent| sent.held = false);
        }
        self.journal.hold_commits(hold);
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

    /// Until nothing moves any more: paused time continues when no task has work.
    /// Then reads the messages of the stream and the acknowledgements.
    fn settle_down(&mut self) {
        loop {
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
            let read = self.runtime.block_on(async { self.reader.next(1_000).now_or_never() });
            for pending in read.into_iter().flatten() {
                let text = String::from_utf8(pending.message.payload.to_vec()).unwrap();
                let number = text.trim_matches('"').split_once(' ').unwrap().0.parse().unwrap();
                *self.stored.entry(number).or_default() += 1;
                self.read.push(pending);
            }
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
                    assert!(!first.held, "acknowledged before its commit");
                    self.acknowledged.push((first.number, first.kind));
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
            Step::Hold(hold) => world.hold(hold),
            Step::Reconnect { session_lost } => world.reconnect(plan, session_lost),
        }
        world
    }

    fn check_invariants(world: &World, plan: &Plan) {
        // Where the window holds all of them, only the journal makes them wait.
        // (In a smaller one the reading waits for a slot, and while it does, the
        // library handles received packets before it writes.)
        let holding = world.journal.holding();
        if !world.held && !holding.full && world.sent.len() <= plan.window {
            assert!(world.sent.is_empty(), "committed and not acknowledged: {:?}", world.sent);
        }
        assert!(holding.messages >= world.read.len() as u64);
        if world.read.is_empty() {
            assert_eq!(holding.messages, 0, "the stream gets something of its backlog");
        }
    }

    /// Everything is committed and settles: everything is acknowledged, and the
    /// stream has read all of it.
    fn teardown(mut world: World, _: Plan) {
        world.hold(false);
        for _ in 0..10_000 {
            if world.sent.is_empty() && world.read.is_empty() {
                break;
            }
            world.settle(&[0]);
        }
        assert!(world.sent.is_empty(), "never acknowledged: {:?}", world.sent);
        for (number, kind) in &world.acknowledged {
            let stored = world.stored.get(number).copied().unwrap_or(0);
            assert!(stored >= kind.messages(), "{number} was acknowledged, and {stored} of it are stored");
        }
        world.stopping.cancel();
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn publishes_are_acknowledged_in_order_and_once(sequential 1..60 => Bus);
}
