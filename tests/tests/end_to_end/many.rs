//! Many streams in one gateway, with nothing to do.

use sluicegate_tests::broker::Broker;
use sluicegate_tests::gateway::{Folder, resident};
use sluicegate_tests::{LOOK, PATIENCE};
use standins::Inbox;
use standins::mqtt::MqttStandin;
use tokio::time::{Instant, sleep};

/// KB of memory that a further stream may take, its connection and all.
const EACH: f64 = 200.0;

/// MiB of a gateway with so many streams of one adapter, all of them connected.
async fn memory_of(streams: usize) -> f64 {
    let broker = Broker::start().await;
    let standin = MqttStandin::start(Inbox::default(), None).await.unwrap();
    let mut folder = Folder::new().bus(&broker.url());
    for number in 0..streams {
        let stream = format!(
            "topics = [\"fleet/{number}/+\"]\n[script]\nadapter = \"mqtt-json\"\n\
             [script.settings]\ntopic = \"out/{number}/{{ident}}\"\n\
             [destination]\ntype = \"mqtt\"\nurl = \"mqtt://localhost:{}\"\n",
            standin.port()
        );
        folder = folder.stream(&format!("s{number}"), &stream);
    }
    let gateway = folder.start().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = gateway.streams().await;
        let running = all.iter().filter(|stream| stream.state == "running").count();
        if running == streams {
            break;
        }
        assert!(Instant::now() < deadline, "{running} of {streams} streams run");
        sleep(4 * LOOK).await;
    }
    let compiled: Vec<_> = std::fs::read_dir(gateway.path().join("data/cache")).unwrap().collect();
    assert_eq!(compiled.len(), 1, "one adapter is compiled once: {compiled:?}");
    resident(gateway.process())
}

#[tokio::test]
async fn additional_stream_needs_little_memory() {
    let (few, many) = (memory_of(100).await, memory_of(300).await);
    let each = (many - few) * 1_048.576 / 200.0;
    println!("{few:.1} MiB with 100 streams, {many:.1} MiB with 300: {each:.0} KB each");
    assert!(each <= EACH, "a stream takes {each:.0} KB");
}
