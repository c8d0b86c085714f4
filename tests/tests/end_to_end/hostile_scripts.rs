//! Scripts that do their worst, each beside a healthy stream that must not
//! notice.

use std::time::Instant;

use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway, UNNOTICED};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, stream_file};
use sluicegate_tests::scripts;
use standins::Inbox;
use standins::mqtt::MqttStandin;

const FLEET: Fleet = Fleet::new(6, 300);

/// A gateway with the stream `healthy` and one for each hostile script, all of
/// the same messages.
struct Beside {
    broker: Broker,
    gateway: Gateway,
    healthy: Inbox,
    hostile: Inbox,
    _standins: [MqttStandin; 2],
}

impl Beside {
    async fn start(scripts: &[(&str, Vec<u8>)]) -> Self {
        let broker = Broker::start().await;
        let (healthy, hostile) = (Inbox::default(), Inbox::default());
        let standins = [
            MqttStandin::start(healthy.clone(), None).await.unwrap(),
            MqttStandin::start(hostile.clone(), None).await.unwrap(),
        ];
        let url = |standin: &MqttStandin| format!("url = \"mqtt://localhost:{}\"", standin.port());
        let mut folder = Folder::new()
            .bus(&broker.url())
            .stream("healthy", &stream_file(Kind::Mqtt, "topic = \"out\"", &url(&standins[0])));
        for (name, wasm) in scripts {
            let stream = format!(
                "topics = [\"flespi/message/gw/devices/+\"]\n[script]\npath = \"{name}.wasm\"\n\
                 [script.limits]\ntime = \"50ms\"\n\
                 [destination]\ntype = \"mqtt\"\n{}\ntopic = \"out\"\n",
                url(&standins[1])
            );
            folder = folder.file(&format!("streams/{name}.wasm"), wasm).stream(name, &stream);
        }
        let gateway = folder.start().await;
        Self { broker, gateway, healthy, hostile, _standins: standins }
    }

    /// Publishes the fleet, `spoil` applied to each payload, and checks that
    /// the healthy stream delivers all of it as if it were alone.
    async fn publish(&self, spoil: impl Fn(u64, String) -> String) {
        let messages = FLEET.all().zip(0..).map(|((topic, payload), n)| (topic, spoil(n, payload)));
        let started = Instant::now();
        Publisher::connect(&self.broker).publish_all(messages).await;
        let healthy = self.gateway.until_settled("healthy", FLEET.messages).await;
        let took = started.elapsed();
        assert_eq!((healthy.delivered, healthy.state.as_str()), (FLEET.messages, "running"));
        assert!(took < UNNOTICED, "the healthy stream took {took:?}");
        assert_eq!(self.healthy.all().len(), 300);
        assert_eq!(self.healthy.violations(), [] as [String; 0]);
    }

    /// The hostile stream is blocked for this reason, with few dead letters
    /// and the rest of its messages kept; the healthy one still delivers.
    async fn is_blocked(&self, name: &str, words: &str) {
        let stream = self
            .gateway
            .until(name, "it is blocked", |s| {
                // The counters follow within the time of a commit.
                s.read == FLEET.messages
                    && s.state == "blocked"
                    && s.troubled_by(words)
                    && self.gateway.dead_letters(name).len() as u64 == s.dead_lettered
            })
            .await;
        assert!(stream.dead_lettered <= 9, "{stream:?}");
        assert_eq!(stream.queued, FLEET.messages - stream.dead_lettered, "{stream:?}");
        assert!(stream.troubled_by("script") || stream.troubled_by("messages in a row"), "{stream:?}");
        assert_eq!(self.gateway.dead_letters(name).len() as u64, stream.dead_lettered);
    }
}

fn marked(n: u64) -> bool {
    matches!(n, 17 | 150 | 299)
}

fn mark(n: u64, payload: String) -> String {
    if marked(n) { payload.replace("☃", "☃!") } else { payload }
}

/// The three marked messages are dead letters for this reason, all others are
/// delivered unchanged.
async fn only_marked_ones_die(wasm: Vec<u8>, words: &str) {
    let beside = Beside::start(&[("hostile", wasm)]).await;
    beside.publish(mark).await;
    let stream = beside.gateway.until_settled("hostile", 300).await;
    assert_eq!((stream.delivered, stream.dead_lettered), (297, 3), "{stream:?}");
    assert_eq!(stream.state, "running");
    FLEET.assert_some_arrived(&arrivals_in(&beside.hostile), |n| !marked(n));
    let letters = beside.gateway.dead_letters("hostile");
    assert_eq!(letters.len(), 3, "{letters:?}");
    for letter in letters {
        assert!(letter["reason"].as_str().unwrap().contains(words), "{letter:?}");
        assert!(letter["payload"].as_str().unwrap().contains("☃!"), "{letter:?}");
    }
}

#[tokio::test]
async fn looping_script_is_blocked() {
    let beside = Beside::start(&[("hostile", scripts::looping())]).await;
    beside.publish(|_, payload| payload).await;
    beside.is_blocked("hostile", "longer than its limit").await;
}

#[tokio::test]
async fn script_that_loops_on_some_messages_loses_only_those() {
    only_marked_ones_die(scripts::looping_at_marked(), "longer than its limit").await;
}

#[tokio::test]
async fn script_that_traps_on_some_messages_loses_only_those() {
    only_marked_ones_die(scripts::trapping_at_marked(), "unreachable").await;
}

#[tokio::test]
async fn memory_hungry_script_is_blocked() {
    let beside = Beside::start(&[("hostile", scripts::eating())]).await;
    beside.publish(|_, payload| payload).await;
    beside.is_blocked("hostile", "more memory than its limit").await;
}

#[tokio::test]
async fn scripts_that_break_the_contract_are_blocked() {
    let breakers = scripts::contract_breakers();
    let files: Vec<_> = breakers.iter().map(|(name, wasm, _)| (*name, wasm.clone())).collect();
    let beside = Beside::start(&files).await;
    beside.publish(|_, payload| payload).await;
    for (name, _, words) in &breakers {
        beside.is_blocked(name, words).await;
    }
    assert!(beside.hostile.all().is_empty(), "nothing of a broken mapping is delivered");
}

/// Nothing is lost while the file is unusable, and a better one put in its
/// place is found.
#[tokio::test]
async fn garbage_blocks_its_stream_until_a_script_takes_its_place() {
    let beside = Beside::start(&[("garbage", scripts::garbage()), ("torn", scripts::torn())]).await;
    beside.publish(|_, payload| payload).await;
    for (name, words) in [("garbage", "not WebAssembly"), ("torn", "not valid WebAssembly")] {
        let stream =
            beside.gateway.until(name, "it is blocked", |s| s.state == "blocked" && s.read == 300).await;
        assert!(stream.troubled_by(words) && stream.script.is_none(), "{stream:?}");
        assert_eq!(stream.queued, 300);
    }
    assert!(beside.gateway.readiness().await.ready, "the others run");
    std::fs::write(beside.gateway.path().join("streams/garbage.wasm"), scripts::honest()).unwrap();
    let stream = beside.gateway.until_settled("garbage", 300).await;
    assert_eq!((stream.delivered, stream.state.as_str()), (300, "running"));
    assert_eq!(FLEET.assert_arrived(&arrivals(&beside.hostile.all())), 0, "nothing comes twice");
}

#[tokio::test]
async fn flood_of_log_lines_is_limited() {
    let beside = Beside::start(&[("hostile", scripts::flooding())]).await;
    let started = Instant::now();
    beside.publish(|_, payload| payload).await;
    let stream = beside.gateway.until_settled("hostile", 300).await;
    assert_eq!((stream.delivered, stream.state.as_str()), (300, "running"), "{stream:?}");
    let lines = beside.gateway.log_lines();
    let flooded = |line: &&_| format!("{line:?}").contains("log flooded");
    let flood = lines.iter().filter(flooded).count() as u64;
    // Fifty a second, and a burst at the start.
    let bound = 50 * (started.elapsed().as_secs() + 2);
    assert!(flood > 0 && flood <= bound, "{flood} lines, at most {bound} were expected");
}
