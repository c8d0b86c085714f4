//! Throughput to a destination that answers after 200 ms, one message in each
//! request, from a backlog in the journal: many lanes against one, which is
//! stop-and-wait.

use std::time::{Duration, Instant};

use sluicegate_tests::broker::Broker;
use sluicegate_tests::gateway::Folder;
use sluicegate_tests::publisher::Publisher;
use standins::http::{HttpStandin, Mode};
use standins::{Inbox, Received};

use crate::common::{self, median, range};

const LATENCY: Duration = Duration::from_millis(200);
const LANES: [usize; 2] = [1, 32];
/// Enough that every lane has something to do to the end.
const BACKLOG: usize = 10_000;
const PORTION: usize = 1_000;
const DEVICES: usize = 1_000;
const ROUNDS: usize = 3;
/// Counted for so long, after the first answer.
const WINDOW: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(5);
const TARGET: f64 = 20.0;

/// Measures and prints the table.
pub fn run() {
    common::print_head(
        "A far destination: requests a second from a backlog, each answered after 200 ms",
        &[
            ("broker", common::first_line("mosquitto", &["-h"])),
            ("backlog", format!("{BACKLOG} messages of {DEVICES} devices, one in each request")),
            ("rounds", format!("{ROUNDS} of {} s, taking turns; medians", WINDOW.as_secs())),
        ],
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut rates = [vec![], vec![]];
    for _ in 0..ROUNDS {
        for (lanes, rates) in LANES.into_iter().zip(&mut rates) {
            rates.push(runtime.block_on(measure(lanes)));
        }
    }
    println!("  {:<8} {:>12}  min - max", "lanes", "requests/s");
    for (lanes, rates) in LANES.into_iter().zip(&rates) {
        let (least, most) = range(rates);
        println!("  {lanes:<8} {:>12.1}  {least:.1} - {most:.1}", median(rates));
    }
    let ratios: Vec<f64> = rates[1].iter().zip(&rates[0]).map(|(many, one)| many / one).collect();
    let ratio = median(&ratios);
    let word = if ratio >= TARGET { "reached" } else { "MISSED" };
    println!("\n  ratio {ratio:.1} (target {TARGET:.0}: {word})\n");
}

/// Requests a second with so many lanes.
async fn measure(lanes: usize) -> f64 {
    let broker = Broker::start().await;
    let inbox = Inbox::default();
    let standin = HttpStandin::start(inbox.clone(), None).await.expect("the stand-in starts");
    standin.set_mode(Mode::Slow(LATENCY));
    let stream = format!(
        "topics = [\"flespi/message/gw/devices/+\"]\nkey = \"ident\"\n\
         [script]\nadapter = \"http-json\"\n[script.settings]\nlimit_messages = 1\n\
         [destination]\ntype = \"http\"\nurl = \"http://{}/in\"\n[delivery]\nlanes = {lanes}\n",
        standin.address()
    );
    let mut gateway = Folder::new().bus(&broker.url()).stream("bench", &stream).start().await;
    gateway.prints(&["streams", "pause", "bench"]).await;
    gateway.until("bench", "it is paused", |stream| stream.paused).await;
    let publisher = Publisher::connect(&broker);
    let numbers: Vec<usize> = (0..BACKLOG).collect();
    for portion in numbers.chunks(PORTION) {
        publisher.publish_all(portion.iter().map(|number| message(*number))).await;
    }
    gateway.until("bench", "all is in the journal", |stream| stream.queued == BACKLOG as u64).await;
    assert!(inbox.all().is_empty(), "a paused stream sends nothing");

    gateway.prints(&["streams", "resume", "bench"]).await;
    let deadline = Instant::now() + PATIENCE;
    while inbox.all().is_empty() {
        assert!(Instant::now() < deadline, "nothing arrives: {:?}", gateway.stream("bench").await);
        tokio::time::sleep(LOOK).await;
    }
    inbox.drain();
    let start = Instant::now();
    tokio::time::sleep(WINDOW).await;
    let arrived = inbox.drain();
    let time = start.elapsed();
    assert_eq!(inbox.violations(), Vec::<String>::new());
    let one_message =
        |request: &Received| matches!(request, Received::Request { objects, .. } if objects.len() == 1);
    assert!(arrived.iter().all(one_message), "one message in each request");
    let stream = gateway.stream("bench").await;
    assert!(stream.queued > 0 && stream.retries == 0, "the backlog lasts: {stream:?}");
    gateway.kill();
    arrived.len() as f64 / time.as_secs_f64()
}

fn message(number: usize) -> (String, String) {
    let device = number % DEVICES;
    let payload =
        format!(r#"{{"ident":"unit-{device}","timestamp":{},"n":{number}}}"#, 1_760_000_000 + number);
    (format!("flespi/message/gw/devices/{device}"), payload)
}
