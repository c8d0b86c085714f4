//! Each kind of hostile script takes its place beside a healthy stream, whose
//! throughput and whose gateway's memory are compared with what they were
//! before in the same run. Most come where no script was; one that is found out
//! only by a comparison comes in the place of an honest one.

use std::time::{Duration, Instant};

use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals};
use sluicegate_tests::gateway::{Folder, Gateway, Stream, resident};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, stream_file};
use sluicegate_tests::{PATIENCE, scripts};
use standins::Inbox;
use standins::mqtt::MqttStandin;

/// Messages of a round, and all that there may be.
const ROUND: u64 = 1_000;
const FLEET: Fleet = Fleet::new(6, 100 * ROUND);

/// What is shorter says nothing on a machine that others use, too.
const NOISE: Duration = Duration::from_secs(1);

/// MiB that the gateway may grow by: an instance of 64 MiB that is full, or
/// the compiler's heap, would show; what it keeps of waiting messages is less.
const GROWTH: f64 = 48.0;

/// A healthy stream, and one whose script is not there yet.
struct Beside {
    publisher: Publisher,
    gateway: Gateway,
    healthy: Inbox,
    published: u64,
    _broker: Broker,
    _standins: [MqttStandin; 2],
}

impl Beside {
    async fn start() -> Self {
        let broker = Broker::start().await;
        let healthy = Inbox::default();
        let standins = [
            MqttStandin::start(healthy.clone(), None).await.unwrap(),
            MqttStandin::start(Inbox::default(), None).await.unwrap(),
        ];
        let url = |standin: &MqttStandin| format!("url = \"mqtt://localhost:{}\"", standin.port());
        let hostile = format!(
            "topics = [\"flespi/message/gw/devices/+\"]\n[script]\npath = \"hostile.wasm\"\n\
             [script.limits]\ntime = \"50ms\"\n\
             [destination]\ntype = \"mqtt\"\n{}\ntopic = \"out\"\n",
            url(&standins[1])
        );
        let gateway = Folder::new()
            .bus(&broker.url())
            .stream("healthy", &stream_file(Kind::Mqtt, "topic = \"out\"", &url(&standins[0])))
            .stream("hostile", &hostile)
            .start()
            .await;
        let publisher = Publisher::connect(&broker);
        Self { publisher, gateway, healthy, published: 0, _broker: broker, _standins: standins }
    }

    /// Publishes a round, which the healthy stream delivers in this time.
    async fn round(&mut self) -> Duration {
        let numbers = self.published..self.published + ROUND;
        let start = Instant::now();
        self.publisher.publish_all(FLEET.some(numbers.clone())).await;
        self.published = numbers.end;
        let healthy = self.gateway.until_settled("healthy", self.published).await;
        let took = start.elapsed();
        assert_eq!((healthy.delivered, healthy.state.as_str()), (self.published, "running"));
        let arrived = arrivals(&self.healthy.drain());
        assert!(arrived.iter().map(|arrival| arrival.number).eq(numbers), "all, once and in their order");
        took
    }

    /// Puts a script in the place of the hostile stream's.
    fn put(&self, wasm: Vec<u8>) {
        let unfinished = self.gateway.path().join("streams/hostile.part");
        std::fs::write(&unfinished, wasm).unwrap();
        std::fs::rename(unfinished, self.gateway.path().join("streams/hostile.wasm")).unwrap();
    }

    fn memory(&self) -> f64 {
        resident(self.gateway.process())
    }
}

/// The script takes its place and gets what it deserves, while round after
/// round is delivered as before.
async fn goes_unnoticed(wasm: Vec<u8>, deserved: impl Fn(&Stream) -> bool) {
    let beside = Beside::start().await;
    takes_its_place(beside, wasm, deserved).await;
}

async fn takes_its_place(mut beside: Beside, wasm: Vec<u8>, deserved: impl Fn(&Stream) -> bool) {
    // The first one fills caches.
    let mut before = Duration::ZERO;
    for _ in 0..3 {
        before = beside.round().await;
    }
    let memory = beside.memory();
    beside.put(wasm);

    let deadline = Instant::now() + 3 * PATIENCE;
    let (mut most, mut longest, mut rounds) = (memory, Duration::ZERO, 0);
    loop {
        longest = longest.max(beside.round().await);
        most = most.max(beside.memory());
        rounds += 1;
        let hostile = beside.gateway.stream("hostile").await;
        if deserved(&hostile) {
            assert!(hostile.dead_lettered <= 9, "{hostile:?}");
            let ended = hostile.delivered + hostile.dead_lettered;
            assert_eq!(hostile.queued, hostile.read - ended, "nothing is lost: {hostile:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{rounds} rounds, and the stream is {hostile:?}");
    }
    println!("a round: {before:?}, beside it {longest:?}; memory: {memory:.1} MiB, beside it {most:.1} MiB");
    assert!(longest < 3 * before + NOISE, "a round took {before:?}, and beside the script {longest:?}");
    assert!(most < memory + GROWTH, "the gateway had {memory:.1} MiB, and beside the script {most:.1} MiB");
}

/// A script that never starts: no message is lost, none is dead.
async fn is_refused(wasm: Vec<u8>, words: &str) {
    goes_unnoticed(wasm, |stream| {
        stream.dead_lettered == 0 && stream.script.is_none() && stream.troubled_by(words)
    })
    .await;
}

/// A script that starts and is stopped.
async fn is_stopped(wasm: Vec<u8>, words: &str) {
    goes_unnoticed(wasm, |stream| stream.state == "blocked" && stream.troubled_by(words)).await;
}

#[tokio::test]
async fn an_endless_loop() {
    is_stopped(scripts::looping(), "longer than its limit").await;
}

#[tokio::test]
async fn a_deep_recursion() {
    is_stopped(scripts::recursing(), "call stack exhausted").await;
}

#[tokio::test]
async fn a_memory_bomb() {
    is_stopped(scripts::eating(), "more memory than its limit").await;
}

#[tokio::test]
async fn a_giant_output() {
    is_stopped(scripts::bloating(), "more data in one call than the limit of 16384 KiB").await;
}

#[tokio::test]
async fn a_storm_of_calls() {
    is_stopped(scripts::storming(), "called the gateway more often than its limit").await;
}

/// It works, and may: what it says too much is left out.
#[tokio::test]
async fn a_flood_of_log_lines() {
    goes_unnoticed(scripts::flooding(), |stream| stream.state == "running" && stream.delivered >= 5 * ROUND)
        .await;
}

#[tokio::test]
async fn an_index_out_of_range() {
    is_stopped(breaker("out-of-range"), "4000").await;
}

#[tokio::test]
async fn lists_beyond_its_memory() {
    is_stopped(breaker("lists-beyond-memory"), "messages in a row failed").await;
}

#[tokio::test]
async fn a_text_that_is_none() {
    is_stopped(breaker("text-that-is-none"), "messages in a row failed").await;
}

fn breaker(name: &str) -> Vec<u8> {
    let found = scripts::contract_breakers().into_iter().find(|(known, _, _)| *known == name);
    found.unwrap_or_else(|| panic!("no script breaks the contract like {name}")).1
}

/// The output differs each time for the same messages: the script is rejected,
/// and the previous one keeps running.
#[tokio::test]
async fn globals_that_make_it_impure() {
    let beside = Beside::start().await;
    beside.put(scripts::marking("a"));
    beside.gateway.until("hostile", "the first script runs", |stream| stream.script.is_some()).await;
    takes_its_place(beside, scripts::counting_in_letters(), |stream| {
        stream.state == "running"
            && stream.delivered >= 3 * ROUND
            && stream.refused.as_ref().is_some_and(|reason| reason.contains("it is not pure"))
    })
    .await;
}

#[tokio::test]
async fn a_trap_in_configure() {
    is_refused(scripts::trapping_in_configure(), "it cannot be started: the script trapped").await;
}

#[tokio::test]
async fn an_empty_file() {
    is_refused(vec![], "the file is empty").await;
}

#[tokio::test]
async fn a_file_of_50_mib() {
    is_refused(vec![0; 50 << 20], "it is larger than 32 MiB").await;
}

#[tokio::test]
async fn a_compile_bomb() {
    is_refused(scripts::compile_bomb(2_000), "compiling it takes more than").await;
}

#[tokio::test]
async fn a_module_of_other_signatures() {
    is_refused(scripts::of_other_signatures(), "`transform` is `func (i32) -> i64`").await;
}

#[tokio::test]
async fn a_component_that_wants_wasi() {
    is_refused(scripts::wanting_wasi(), "it imports wasi:clocks/monotonic-clock@0.2.0").await;
}
