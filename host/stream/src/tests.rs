//! A stream with a real script and a destination of plain memory, in paused
//! time.

#![allow(clippy::unwrap_used)]

mod credentials;
mod durable;
mod first;
mod forbidden;
mod idle;
mod pressure;
mod reload;
mod reload_model;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use destination::{Cause, Connection, Delivery, DeliveryId, Fault, Identity, Reply, Verdict};
use journal::{Append, Counters, DeadLetterFilter, Pending, Position, Reading, Simulated, StoredDelivery};
use message::{Message, TopicFilter};
use script::{Limits, Recipe, Script, Tables, testing as scripts};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::entry::Entry;
use super::*;

/// Delivers every payload unchanged and traps on one that begins with `!`.
const TRAPS_ON_MARK: &str = "
    (local $i i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (if (i32.eq (i32.const 33)
              (i32.load8_u (i32.load offset=8 (i32.add (local.get $batch) (i32.mul (local.get $i) (i32.const 24))))))
          (then unreachable))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (call $pass (local.get $batch) (local.get $n))";

/// The maximum of a batch.
const BATCH: Amount = Amount { messages: 128, bytes: 128 * 1024 };

/// A wall clock that follows the paused time.
fn clock() -> u64 {
    static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    let since = Instant::now().into_std().saturating_duration_since(*START);
    1_700_000_000_000 + u64::try_from(since.as_millis()).unwrap()
}

/// What the far side does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Accepts,
    RefusesEverything,
    /// Refuses bodies that begin with `?`.
    RefusesMarked,
    Unreachable,
    /// Takes what is sent and says nothing.
    Silent,
}

struct FarSide {
    mood: Mutex<Mood>,
    accepted: Mutex<Vec<String>>,
    /// Body and identity of everything that was sent, repeats included.
    sent: Mutex<Vec<(String, Option<Identity>)>>,
    window: usize,
    changed: Notify,
}

impl FarSide {
    fn new(mood: Mood, window: usize) -> Arc<Self> {
        Arc::new(Self {
            mood: Mutex::new(mood),
            accepted: Mutex::default(),
            sent: Mutex::default(),
            window,
            changed: Notify::new(),
        })
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_waiters();
    }

    fn accepted(&self) -> Vec<String> {
        self.accepted.lock().unwrap().clone()
    }
}

struct FarSideDestination(Arc<FarSide>);

#[async_trait]
impl Destination for FarSideDestination {
    fn window(&self) -> usize {
        self.0.window
    }

    fn check(&self, delivery: &Delivery) -> Result<(), String> {
        if delivery.body.contains(&b'#') { Err("a body with a #".to_owned()) } else { Ok(()) }
    }

    fn wants_identity(&self) -> bool {
        true
    }

    async fn connect(&self, _lane: u32) -> Result<Box<dyn Connection>, Fault> {
        if *self.0.mood.lock().unwrap() == Mood::Unreachable {
            return Err(Fault::persistent(Cause::Credentials, "bad password"));
        }
        Ok(Box::new(Wire { far: self.0.clone(), sent: VecDeque::new() }))
    }
}

struct Wire {
    far: Arc<FarSide>,
    sent: VecDeque<(DeliveryId, String)>,
}

#[async_trait]
impl Connection for Wire {
    async fn send(&mut self, id: DeliveryId, delivery: &Delivery) -> Result<(), Fault> {
        let body = String::from_utf8(delivery.body.to_vec()).unwrap();
        self.far.sent.lock().unwrap().push((body.clone(), delivery.identity.clone()));
        self.sent.push_back((id, body));
        Ok(())
    }

    async fn next(&mut self) -> Result<(DeliveryId, Verdict), Fault> {
        loop {
            let changed = self.far.changed.notified();
            let mood = *self.far.mood.lock().unwrap();
            if mood == Mood::Unreachable {
                return Err(Fault::transient("cut"));
            }
            if mood != Mood::Silent
                && let Some((id, body)) = self.sent.pop_front()
            {
                let refused =
                    mood == Mood::RefusesEverything || mood == Mood::RefusesMarked && body.starts_with('?');
                if refused {
                    return Ok((id, Verdict::Refused(Reply("400 no".to_owned()))));
                }
                self.far.accepted.lock().unwrap().push(body);
                return Ok((id, Verdict::Delivered));
            }
            changed.await;
        }
    }

    async fn close(self: Box<Self>) {}
}

struct Running {
    journal: Journal,
    status: Arc<StreamStatus>,
    reloads: ReloadHandle,
    far: Arc<FarSide>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Delivers every payload unchanged and remembers the first of each batch,
/// always under the same key.
const REMEMBERS: &str = "
    (call $set (i32.const 100) (i32.const 1)
      (i32.load offset=8 (local.get $batch)) (i32.load offset=12 (local.get $batch)))
    (call $pass (local.get $batch) (local.get $n))";

async fn start(transform: &str, far: Arc<FarSide>, lanes: u32) -> Running {
    start_with(transform, far, lanes, Limits::default()).await
}

async fn start_with(transform: &str, far: Arc<FarSide>, lanes: u32, limits: Limits) -> Running {
    start_under(Pressure::default(), transform, far, lanes, limits).await
}

async fn start_under(
    pressure: Pressure,
    transform: &str,
    far: Arc<FarSide>,
    lanes: u32,
    limits: Limits,
) -> Running {
    let journal = Journal::simulated(Simulated::new(1));
    start_here(journal, pressure, transform, far, lanes, limits).await
}

async fn start_here(
    journal: Journal,
    pressure: Pressure,
    transform: &str,
    far: Arc<FarSide>,
    lanes: u32,
    limits: Limits,
) -> Running {
    let destination = Arc::new(FarSideDestination(far.clone()));
    start_to(destination, journal, pressure, transform, far, lanes, limits).await
}

async fn start_to(
    destination: Arc<dyn Destination>,
    journal: Journal,
    pressure: Pressure,
    transform: &str,
    far: Arc<FarSide>,
    lanes: u32,
    limits: Limits,
) -> Running {
    let wasm = Bytes::from(scripts::transform(transform));
    // Beforehand: another test may be compiling the same bytes, and a paused
    // clock would run on while this one waits for it.
    let recipe = Recipe { limits: limits.clone(), ..Recipe::new("pass", wasm.clone()) };
    let loaded = Script::load(scripts::engine(), recipe).await;
    let running = start_stream(destination, journal, pressure, source(wasm, limits), far, lanes);
    if loaded.is_ok() {
        until(|| running.status.script().is_some()).await;
    }
    running
}

/// A script that never changes.
struct Fixed {
    wasm: Bytes,
    limits: Limits,
}

impl ScriptFiles for Fixed {
    fn read(&self) -> Result<Bytes, String> {
        Ok(self.wasm.clone())
    }

    fn recipe(&self, wasm: Bytes, _: Option<Tables>) -> Result<Recipe, String> {
        Ok(Recipe { limits: self.limits.clone(), ..Recipe::new("pass", wasm) })
    }
}

fn source(wasm: Bytes, limits: Limits) -> ScriptSource {
    ScriptSource {
        origin: "test".to_owned(),
        paths: Vec::new(),
        tables: BTreeMap::new(),
        files: Arc::new(Fixed { wasm, limits }),
        follow: false,
        watch: None,
        versions: None,
        rules: ReloadRules::default(),
    }
}

fn start_stream(
    destination: Arc<dyn Destination>,
    journal: Journal,
    pressure: Pressure,
    script: ScriptSource,
    far: Arc<FarSide>,
    lanes: u32,
) -> Running {
    start_stream_on(scripts::engine(), destination, journal, pressure, script, far, lanes)
}

fn start_stream_on(
    engine: &Engine,
    destination: Arc<dyn Destination>,
    journal: Journal,
    pressure: Pressure,
    script: ScriptSource,
    far: Arc<FarSide>,
    lanes: u32,
) -> Running {
    let status = Arc::new(StreamStatus::new("test", StreamIndex(0)));
    let (reloads, orders) = ReloadHandle::new();
    let stream = Stream {
        name: "test".to_owned(),
        index: StreamIndex(0),
        key: KeyRule::Topic,
        lanes,
        batch: BATCH,
        pressure,
        destination,
        script,
        takes: Takes { filters: vec![TopicFilter::new("#").unwrap()], key: KeyRule::Topic, selection: None },
        orders,
        status: status.clone(),
        watch: Watch::looking_only(),
        clock: Clock(clock),
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(stream, engine.clone(), journal.clone(), stop.clone()));
    Running { journal, status, reloads, far, stop, task }
}

/// Waits, by the clock that the test goes by.
async fn until(wanted: impl Fn() -> bool) {
    let all = async {
        while !wanted() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), all).await.unwrap();
}

impl Running {
    async fn append(&self, bodies: impl IntoIterator<Item = String>) {
        self.append_at(0, bodies).await;
    }

    async fn append_at(&self, received_at: u64, bodies: impl IntoIterator<Item = String>) {
        self.append_of(7, received_at, bodies).await;
    }

    /// Of so many devices in turn.
    async fn append_of(&self, devices: usize, received_at: u64, bodies: impl IntoIterator<Item = String>) {
        for (number, body) in bodies.into_iter().enumerate() {
            let topic = format!("device/{}", number % devices);
            let message = Message { topic: topic.into(), payload: body.into(), received_at };
            let _ticket = self.journal.append(vec![Append { message, streams: vec![StreamIndex(0)] }]).await;
        }
    }

    fn counters(&self) -> Counters {
        self.journal.counters(StreamIndex(0))
    }

    /// Waits, in paused time, until the counters say so.
    async fn until(&self, wanted: impl Fn(&Counters) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(3600);
        while !wanted(&self.counters()) {
            assert!(Instant::now() < deadline, "{:?} {:?}", self.counters(), self.status.state());
            assert!(self.counters().balance());
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn finish(self) -> Vec<String> {
        self.stop.cancel();
        timeout(Duration::from_secs(60), self.task).await.unwrap().unwrap();
        assert!(self.journal.counters(StreamIndex(0)).balance());
        self.far.accepted()
    }
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:05}")).collect()
}

#[tokio::test(start_paused = true)]
async fn messages_are_delivered_in_order_and_the_stream_says_running() {
    let running = start(TRAPS_ON_MARK, FarSide::new(Mood::Accepts, 64), 1).await;
    running.append(numbered(1000)).await;
    running.until(|b| b.delivered == 1000).await;
    assert_eq!(running.status.state(), State::Running);
    assert_eq!(running.status.script().unwrap().0, "pass");
    assert_eq!(running.journal.holding().messages, 0);
    assert_eq!(running.finish().await, numbered(1000));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_traps_takes_no_other_along() {
    let running = start(TRAPS_ON_MARK, FarSide::new(Mood::Accepts, 64), 1).await;
    let mut bodies = numbered(300);
    bodies[150] = "!150".to_owned();
    running.append(bodies.clone()).await;
    running.until(|b| b.queued == 0).await;
    assert_eq!(running.counters().dead_lettered, 1);
    assert_eq!(running.counters().delivered, 299);
    bodies.remove(150);
    assert_eq!(running.finish().await, bodies);
}

#[tokio::test(start_paused = true)]
async fn a_script_that_fails_on_everything_blocks_its_stream_and_keeps_the_rest() {
    let running = start("unreachable", FarSide::new(Mood::Accepts, 64), 1).await;
    running.append(numbered(50)).await;
    running.until(|b| b.dead_lettered > 0).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(running.counters().dead_lettered, 9, "no later message became a dead letter");
    assert_eq!(running.counters().queued, 41);
    let state = running.status.state();
    assert!(state.reason().unwrap().contains("10 messages in a row failed"), "{state}");
    assert_eq!(state.code().map(Code::word), Some("script-fault"));
    assert!(running.finish().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_far_side_that_refuses_everything_for_minutes_costs_no_message() {
    for window in [1, 64] {
        let running = start(TRAPS_ON_MARK, FarSide::new(Mood::RefusesEverything, window), 2).await;
        running.append(numbered(400)).await;
        sleep(Duration::from_secs(300)).await;
        assert_eq!(running.counters().queued, 400);
        assert_eq!(running.status.state().to_string(), "blocked: refuses everything: 400 no");
        assert!(running.status.codes().contains(&("refuses-everything", true)));
        running.far.set(Mood::Accepts);
        running.until(|b| b.delivered == 400).await;
        assert_eq!(running.status.state(), State::Running);
        let mut accepted = running.finish().await;
        accepted.sort();
        assert_eq!(accepted, numbered(400));
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_refused_becomes_a_dead_letter() {
    let running = start(TRAPS_ON_MARK, FarSide::new(Mood::RefusesMarked, 8), 1).await;
    let mut bodies = numbered(200);
    bodies[20] = "?20".to_owned();
    bodies[120] = "#120".to_owned();
    running.append(bodies.clone()).await;
    running.until(|b| b.queued == 0).await;
    assert_eq!((running.counters().delivered, running.counters().dead_lettered), (198, 2));
    assert!(running.status.last_error().unwrap().starts_with("dead letter"));
    running.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_far_side_that_cannot_be_entered_blocks_and_then_resumes() {
    let running = start(TRAPS_ON_MARK, FarSide::new(Mood::Accepts, 4), 1).await;
    running.append(numbered(10)).await;
    running.until(|b| b.delivered == 10).await;
    running.far.set(Mood::Unreachable);
    running.append(numbered(90)).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(running.status.state().to_string(), "blocked: bad password");
    assert_eq!(running.status.state().code().map(Code::word), Some("credentials"));
    assert_eq!(running.counters().dead_lettered, 0);
    running.far.set(Mood::Accepts);
    running.until(|b| b.delivered == 100).await;
    assert_eq!(running.status.state(), State::Running);
    running.finish().await;
}

/// A time that had passed and that nobody could act on made the lane spin; in
/// paused time that shows as a clock that stands still.
#[tokio::test(start_paused = true)]
async fn a_lane_with_suspects_sleeps_while_its_far_side_is_away() {
    let running = start(TRAPS_ON_MARK, FarSide::new(Mood::RefusesEverything, 1), 1).await;
    running.append(numbered(3)).await;
    sleep(Duration::from_secs(5)).await;
    running.far.set(Mood::Unreachable);
    sleep(Duration::from_secs(600)).await;
    running.far.set(Mood::Accepts);
    running.until(|b| b.delivered == 3).await;
    running.finish().await;
}

#[tokio::test(start_paused = true)]
async fn lanes_keep_the_order_of_each_key() {
    let running = start(TRAPS_ON_MARK, FarSide::new(Mood::Accepts, 3), 4).await;
    running.append(numbered(700)).await;
    running.until(|b| b.delivered == 700).await;
    let accepted: Vec<usize> = running.finish().await.iter().map(|b| b.parse().unwrap()).collect();
    for device in 0..7 {
        let of_device: Vec<_> = accepted.iter().filter(|n| *n % 7 == device).collect();
        assert!(of_device.is_sorted(), "{of_device:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_waits_for_what_is_in_flight_and_hands_the_rest_back() {
    let far = FarSide::new(Mood::Silent, 4);
    let running = start(TRAPS_ON_MARK, far.clone(), 1).await;
    running.append(numbered(20)).await;
    sleep(Duration::from_secs(1)).await;
    running.stop.cancel();
    sleep(Duration::from_secs(1)).await;
    far.set(Mood::Accepts);
    let journal = running.journal.clone();
    assert_eq!(running.finish().await, numbered(4));
    assert_eq!(journal.counters(StreamIndex(0)).queued, 16);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_keeps_its_key_through_retries_and_no_other_has_it() {
    let far = FarSide::new(Mood::Silent, 8);
    let running = start(TRAPS_ON_MARK, far.clone(), 2).await;
    let mut bodies = numbered(100);
    bodies.extend(numbered(100));
    running.append(bodies).await;
    for _ in 0..3 {
        sleep(Duration::from_secs(30)).await;
        far.set(Mood::Unreachable);
        sleep(Duration::from_secs(30)).await;
        far.set(Mood::Silent);
    }
    far.set(Mood::Accepts);
    running.until(|b| b.delivered == 200).await;
    running.finish().await;
    let sent = far.sent.lock().unwrap();
    assert!(sent.len() > 200 + 8, "{} sends: nothing was repeated", sent.len());
    // In the journal in memory every message here is a chunk of its own.
    let mut of_position: HashMap<&str, (&str, &str)> = HashMap::new();
    let mut of_key: HashMap<&str, &str> = HashMap::new();
    for (body, identity) in &*sent {
        let identity = identity.as_ref().unwrap();
        assert_eq!(identity.key.len(), 32);
        let known = of_position.entry(&identity.positions).or_insert((body, &identity.key));
        assert_eq!(*known, (body.as_str(), identity.key.as_str()));
        let position = of_key.entry(&identity.key).or_insert(&identity.positions);
        assert_eq!(*position, identity.positions);
    }
    assert_eq!(of_position.len(), 200);
    assert!(of_position.contains_key("199/0"));
}

fn destination_of(far: &Arc<FarSide>) -> crate::credentials::Current {
    let destination: Arc<dyn Destination> = Arc::new(FarSideDestination(far.clone()));
    tokio::sync::watch::channel(Target { destination, spare_lane: 1 }).1
}

fn shared(far: &Arc<FarSide>, script: &Script) -> Arc<Shared> {
    let journal = Journal::simulated(Simulated::new(1));
    Arc::new(Shared {
        name: "test".to_owned(),
        index: StreamIndex(0),
        identities: Some(Identities::new(journal.id(), "test")),
        journal,
        current: destination_of(far),
        destination: Arc::new(FarSideDestination(far.clone())),
        status: Arc::new(StreamStatus::new("test", StreamIndex(0))),
        intake: Arc::new(Intake::new(1, BATCH)),
        pressure: Pressure::default(),
        clock: Clock::default(),
        life: Arc::default(),
        slot: Arc::new(Slot::new(script.clone())),
    })
}

async fn script(transform: &str) -> Script {
    Script::load(scripts::engine(), Recipe::new("pass", scripts::transform(transform))).await.unwrap()
}

/// An entry with this payload; what comes behind a `=` is stored to be sent as it is.
fn entry(index: u32, text: &str) -> Arc<Entry> {
    let (payload, stored) = text.split_once('=').map_or((text, None), |(p, s)| (p, Some(s)));
    let as_is = stored.map(|body| {
        let headers = vec![("kept".to_owned(), "yes".to_owned())];
        Arc::new(StoredDelivery { target: Some("there".to_owned()), headers, body: body.to_owned().into() })
    });
    let message = Message { topic: "t".into(), payload: payload.to_owned().into(), received_at: 0 };
    Entry::new(
        Pending { position: Position { chunk: 3, index }, message, as_is, reading: Reading::First },
        Arc::new(KeyRule::Topic),
    )
}

#[tokio::test]
async fn what_is_stored_goes_out_as_it_is_and_in_its_place() {
    let shared = shared(&FarSide::new(Mood::Accepts, 1), &script(TRAPS_ON_MARK).await);
    let mut step = shared.map_step(0);
    // The payload of the first one would trap, the body of the fourth is not allowed.
    let texts = ["!a=1", "b", "c", "d=#4", "e=5", "f"];
    let batch = texts.iter().zip(0..).map(|(text, index)| entry(index, text)).collect();
    let mapped = step.map(batch, 0).await;
    let bodies: Vec<_> = mapped.outgoing.iter().map(|p| &p.delivery.body[..]).collect();
    assert_eq!(bodies, [&b"1"[..], b"b", b"c", b"5", b"f"]);
    let first = &mapped.outgoing[0];
    assert_eq!(first.delivery.target.as_deref(), Some("there"));
    assert_eq!(first.delivery.header("kept"), Some("yes"));
    assert_eq!(first.delivery.identity.as_ref().unwrap().positions, "3/0");
    assert_eq!(first.carries.len(), 1);
    assert_eq!(mapped.forbidden.len(), 1);
    assert_eq!(mapped.forbidden[0].0.carries[0].position.index, 3);
    assert!(mapped.rejected.is_empty() && mapped.stuck.is_none());
}

#[tokio::test]
async fn a_script_that_is_stuck_holds_back_what_is_stored_behind_it() {
    let shared = shared(&FarSide::new(Mood::Accepts, 1), &script("unreachable").await);
    let mut step = shared.map_step(0);
    let mut texts = vec!["a=1"; 2];
    texts.extend(["x"; 12]);
    texts.push("b=2");
    let batch = texts.iter().zip(0..).map(|(text, index)| entry(index, text)).collect();
    let mapped = step.map(batch, 0).await;
    assert_eq!((mapped.outgoing.len(), mapped.rejected.len()), (2, 9));
    let waiting: Vec<_> = mapped.stuck.unwrap().batch.iter().map(|e| e.position.index).collect();
    assert_eq!(waiting, [11, 12, 13, 14]);
}

#[tokio::test]
async fn a_refused_delivery_comes_apart_into_what_is_stored_and_what_is_mapped() {
    let shared = shared(&FarSide::new(Mood::Accepts, 1), &script(TRAPS_ON_MARK).await);
    let mut step = shared.map_step(0);
    let carries = vec![entry(0, "!=1"), entry(1, "b"), entry(2, "c"), entry(3, "!=4")];
    let mut merged = entry::OutgoingDelivery::as_is(&carries[0], 5).unwrap();
    merged.carries = carries;
    // The script delivers nowhere in particular, what is stored goes `there`.
    assert!(matches!(step.split(&merged).await, map::Split::Indivisible));
    merged.carries.drain(1..3);
    let map::Split::Halves(halves) = step.split(&merged).await else { panic!("halves expected") };
    let bodies: Vec<_> = halves.iter().map(|p| &p.delivery.body[..]).collect();
    assert_eq!(bodies, [&b"1"[..], b"4"]);
    let keys: Vec<_> = halves.iter().map(|p| &p.delivery.identity.as_ref().unwrap().key).collect();
    assert_ne!(keys[0], keys[1]);
    assert!(halves.iter().all(|p| p.origin.generation == 5));
}

#[tokio::test]
async fn what_a_call_wrote_comes_with_its_messages_and_from_a_split_comes_nothing() {
    let shared = shared(&FarSide::new(Mood::Accepts, 1), &script(REMEMBERS).await);
    let mut step = shared.map_step(0);
    let batch = ["a", "b", "x=as it is", "c"].iter().zip(0..).map(|(text, n)| entry(n, text)).collect();
    let mapped = step.map(batch, 0).await;
    let wrote: Vec<_> = mapped.wrote.iter().map(|(messages, w)| (messages.len(), &w.values[0].1)).collect();
    assert_eq!(wrote, [(2, &Some("a".into())), (1, &Some("c".into()))]);

    let mut whole = mapped.outgoing[0].clone();
    whole.carries = vec![entry(0, "a"), entry(1, "b")];
    assert!(matches!(step.split(&whole).await, map::Split::Halves(_)));
    let mapped = step.map(vec![entry(4, "d")], 0).await;
    assert_eq!(mapped.wrote[0].1.values[0].1, Some("d".into()));
}

#[tokio::test(start_paused = true)]
async fn a_full_state_blocks_and_buries_nobody() {
    let limits = Limits { state_bytes: 80, ..Limits::default() };
    let running = start_with(REMEMBERS, FarSide::new(Mood::Accepts, 8), 1, limits).await;
    running.append(["small".to_owned()]).await;
    running.until(|b| b.delivered == 1).await;
    running.append(["too large for what is left".to_owned(), "b".to_owned()]).await;
    sleep(Duration::from_secs(600)).await;
    let counters = running.counters();
    assert_eq!((counters.queued, counters.dead_lettered), (2, 0));
    let state = running.status.state().to_string();
    assert_eq!(state, "blocked: script: the state of the stream has reached its limit of 0 KiB");
    assert_eq!(running.status.codes(), [("state-full", true)]);
    running.finish().await;
}

#[tokio::test(start_paused = true)]
async fn two_lanes_at_one_key_block_and_both_are_named() {
    let running = start(REMEMBERS, FarSide::new(Mood::Accepts, 8), 4).await;
    running.append(numbered(70)).await;
    sleep(Duration::from_secs(600)).await;
    assert!(running.counters().queued > 0);
    assert_eq!(running.counters().dead_lettered, 0);
    let state = running.status.state().to_string();
    assert!(state.starts_with("blocked: script: lane ") && state.contains("which lane "), "{state}");
    assert_eq!(running.status.codes(), [("state-conflict", true)]);
    running.finish().await;
}
