//! How long messages wait because a script is replaced: from the moment a lane
//! wants to map a batch to the moment it may, with an instance of the new
//! version. The gateway measures it itself, and logs it for each lane.

use std::time::Duration;

use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::Fleet;
use sluicegate_tests::gateway::Folder;
use sluicegate_tests::traffic::Traffic;
use standins::Inbox;
use standins::mqtt::MqttStandin;

use crate::common::{self, median, range};

const RELOADS: usize = 50;
const LANES: usize = 4;
const BURST: u64 = 20;
const EVERY: Duration = Duration::from_millis(5);
/// Milliseconds, of 99 pauses in 100.
const TARGET: f64 = 1.0;
/// What the gateway logs of a lane.
const TAKEN_UP: &str = "lane switched to another script version";

/// Measures and prints the table.
pub fn run() {
    common::print_head(
        "Script swap: how long a batch waits because its script is replaced",
        &[
            ("broker", common::first_line("mosquitto", &["-h"])),
            ("script", format!("mqtt-json, {} KB, replaced {RELOADS} times", wasm().len() / 1_000)),
            ("lanes", LANES.to_string()),
            ("traffic", format!("{} messages/s", BURST * 1_000 / EVERY.as_millis() as u64)),
        ],
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut pauses = runtime.block_on(measure());
    pauses.sort_by(f64::total_cmp);
    let ninety_nine = pauses[pauses.len() * 99 / 100];
    let word = if ninety_nine <= TARGET { "reached" } else { "MISSED" };
    println!("  {:>6}  {:>9}  {:>9}  {:>9}", "pauses", "median ms", "p99 ms", "most ms");
    println!(
        "  {:>6}  {:>9.3}  {ninety_nine:>9.3}  {:>9.3}",
        pauses.len(),
        median(&pauses),
        range(&pauses).1
    );
    println!("\n  p99 {ninety_nine:.3} ms (target {TARGET} ms: {word})\n");
}

fn wasm() -> &'static [u8] {
    &adapters::official("mqtt-json").expect("it is official").wasm
}

/// The pauses of all lanes, in milliseconds.
async fn measure() -> Vec<f64> {
    let standin = MqttStandin::start(Inbox::default(), None).await.expect("the stand-in starts");
    let broker = Broker::start().await;
    let stream = format!(
        "topics = [\"flespi/message/gw/devices/+\"]\nkey = \"ident\"\n[script]\npath = \"../mine.wasm\"\n\
         [script.settings]\ntopic = \"out\"\n[delivery]\nlanes = {LANES}\n\
         [destination]\ntype = \"mqtt\"\nurl = \"mqtt://localhost:{}\"\n",
        standin.port()
    );
    let gateway = Folder::new()
        .bus(&broker.url())
        .env("SLUICEGATE_LOG", "info,telemetry::event=debug")
        .file("mine.wasm", wasm())
        .stream("fleet", &stream)
        .start()
        .await;
    let traffic = Traffic::in_bursts(&broker, Fleet::new(50, u64::MAX), BURST, EVERY);
    traffic.more(1_000).await;
    for number in 0..RELOADS {
        let mut other = wasm().to_vec();
        // A section that means nothing: other bytes, the same script.
        other.extend([0, 3, 1, b'x', (number % 2) as u8]);
        std::fs::write(gateway.path().join("mine.wasm.new"), other).expect("the script is written");
        std::fs::rename(gateway.path().join("mine.wasm.new"), gateway.path().join("mine.wasm"))
            .expect("the script is renamed");
        let (status, answer) = gateway.post("/streams/fleet/reload").await;
        assert_eq!(status, 200, "{answer}");
        // Every lane has a batch to map meanwhile.
        traffic.more(10 * LANES as u64 * BURST).await;
    }
    traffic.end().await;
    let lines = gateway.log_lines();
    let taken_up = lines.iter().filter(|line| line["message"] == TAKEN_UP);
    let paused = taken_up.map(|line| line["paused_us"].as_f64().expect("a time"));
    let pauses: Vec<f64> = paused.map(|us| us / 1_000.0).collect();
    assert!(pauses.len() >= RELOADS * LANES / 2, "{} pauses", pauses.len());
    pauses
}
