//! CPU time of the gateway per message, MQTT to MQTT at QoS 1 over a real
//! mosquitto, at saturation: the messages wait in the broker, in the session of
//! the gateway, which starts and works them off. What starting and ending cost
//! without a message is measured the same way and taken off. With `sync = "none"`
//! the journal still writes everything, but waits for the disk once a second
//! only: the difference is what waiting for it costs.

use std::path::Path;
use std::time::{Duration, Instant};

use sluicegate_tests::broker::Broker;
use sluicegate_tests::gateway::{Folder, Gateway};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::scripts;

use crate::common::{self, DEVICES, PAYLOAD, median, payload, range, topic};

const MESSAGES: usize = 100_000;
const ROUNDS: usize = 3;
/// The publisher waits for the acknowledgements of so many before the next.
const PORTION: usize = 5_000;
const LOOK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(120);
/// Microseconds of CPU time per message, with a journal that is synced.
const TARGET: f64 = 15.0;

/// What one run has cost.
struct Cost {
    gateway: Duration,
    broker: Duration,
    wall: Duration,
}

/// A way through the gateway, and what it has cost so far.
struct Case {
    name: &'static str,
    script: &'static str,
    /// `[journal] sync`.
    sync: &'static str,
    gateway_us: Vec<f64>,
    broker_us: Vec<f64>,
    rate: Vec<f64>,
}

/// Measures and prints the table.
pub fn run() {
    let disk = common::disk_folder();
    let disk = disk.path();
    common::print_head(
        "End to end: CPU time of the gateway's process per message, MQTT -> script -> MQTT",
        &[
            ("broker", common::first_line("mosquitto", &["-h"])),
            ("message", format!("{PAYLOAD} bytes of JSON, QoS 1 in and out, {DEVICES} devices")),
            ("rounds", format!("{ROUNDS} of {MESSAGES} messages, taking turns; start and end taken off")),
            (
                "kept",
                format!(
                    "in the gateway's journal ({}) until the destination has it",
                    common::file_system(disk)
                ),
            ),
        ],
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let case =
        |name, script, sync| Case { name, script, sync, gateway_us: vec![], broker_us: vec![], rate: vec![] };
    let pass = ("pass-through (WAT)", "path = \"../pass.wasm\"");
    let mut cases = [
        case("mqtt-json", "adapter = \"mqtt-json\"", "always"),
        case(pass.0, pass.1, "always"),
        case(pass.0, pass.1, "none"),
    ];
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let idle = runtime.block_on(measure(case, disk, 0));
            let busy = runtime.block_on(measure(case, disk, MESSAGES));
            case.gateway_us.push(per_message(busy.gateway.saturating_sub(idle.gateway)));
            case.broker_us.push(per_message(busy.broker.saturating_sub(idle.broker)));
            case.rate.push(1e6 / per_message(busy.wall));
        }
    }
    println!(
        "  {:<20} {:<7} {:>10}  {:<12} {:>12}  {:>12}",
        "script", "sync", "gateway us", "min - max", "mosquitto us", "messages/s *"
    );
    for case in &cases {
        let (least, most) = range(&case.gateway_us);
        println!(
            "  {:<20} {:<7} {:>10.1}  {:<12} {:>12.1}  {:>12.0}",
            case.name,
            case.sync,
            median(&case.gateway_us),
            format!("{least:.1} - {most:.1}"),
            median(&case.broker_us),
            median(&case.rate),
        );
    }
    for case in cases.iter().filter(|case| case.sync == "always") {
        println!("\n  {}: {}", case.name, common::verdict(median(&case.gateway_us), TARGET, "us"));
    }
    println!(
        "\n  * wall clock, gateway and broker on one machine: depends on what else it does, not stable\n"
    );
}

/// Lets the messages queue up, starts the gateway and waits until it has
/// delivered all of them.
async fn measure(case: &Case, disk: &Path, messages: usize) -> Cost {
    let broker = Broker::start().await;
    let journal = tempfile::tempdir_in(disk).expect("a folder for the journal");
    let bus = format!(
        "url = \"{}\"\nclient_id = \"bench\"\n[journal]\npath = \"{}\"\nsync = \"{}\"",
        broker.url(),
        journal.path().display(),
        case.sync
    );
    let stream = format!(
        "topics = [\"flespi/message/gw/devices/+\"]\n[script]\n{}\n\
         [destination]\ntype = \"mqtt\"\nurl = \"{}\"\ntopic = \"fleet/out\"\n",
        case.script,
        broker.url()
    );
    let folder = Folder::new().bus_lines(&bus).file("pass.wasm", scripts::honest()).stream("bench", &stream);
    let mut gateway = folder.start().await;
    // The session with its subscription stays in the broker.
    assert!(gateway.terminate().await.success(), "the gateway ends cleanly");

    publish(&broker, messages).await;
    let broker_before = cpu(broker.process());
    let start = Instant::now();
    gateway.restart().await;
    let delivered = until_delivered(&mut gateway, messages).await;
    let wall = start.elapsed();
    let cost = Cost {
        gateway: cpu(gateway.process()),
        broker: cpu(broker.process()).saturating_sub(broker_before),
        wall,
    };
    assert_eq!(delivered, messages as u64, "each message is delivered once");
    assert!(gateway.terminate().await.success(), "the gateway ends cleanly");
    cost
}

async fn publish(broker: &Broker, messages: usize) {
    let publisher = Publisher::connect(broker);
    let numbers: Vec<usize> = (0..messages).collect();
    for portion in numbers.chunks(PORTION) {
        let message = |number: &usize| (topic(*number), payload(*number));
        publisher.publish_all(portion.iter().map(message)).await;
    }
}

async fn until_delivered(gateway: &mut Gateway, messages: usize) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    gateway.until_ready().await;
    loop {
        let stream = gateway.stream("bench").await;
        if stream.delivered >= messages as u64 && stream.queued == 0 {
            return stream.delivered;
        }
        assert!(Instant::now() < deadline, "the gateway does not get through: {stream:?}");
        tokio::time::sleep(LOOK).await;
    }
}

fn per_message(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6 / MESSAGES as f64
}

/// CPU time that a process has used so far, in user and kernel mode
/// (proc_pid_stat(5), fields 14 and 15, in hundredths of a second).
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    // The second field is the program's name, which may have spaces in it.
    let (_, fields) = stat.rsplit_once(')').expect("the form of /proc/PID/stat");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}
