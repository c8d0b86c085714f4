//! A large backlog: how soon the gateway is ready again after kill -9, what it
//! takes in memory, and what is left on the disk once the backlog is drained.
//!
//! A child process (this program again) fills the journal and is killed in the
//! middle of a commit; then the gateway is started on it and killed, a few
//! times. `SLUICEGATE_BENCH_BACKLOG=2GiB` sets the size; without it 10 GiB, or
//! as much as the disk allows when 5 GiB of it are to stay free.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::{Append, Journal, Outcome, ReadRules, Settlement, SyncMode};
use message::Message;
use sluicegate_tests::broker::Broker;
use sluicegate_tests::gateway::{Folder, Gateway, resident};
use sluicegate_tests::receiver::dead_end;
use tokio::sync::mpsc;

use crate::common::{self, PAYLOAD, median, range};

const STREAM: &str = "backlog";
pub const FILL: &str = "--fill";
const BACKLOG: u64 = 10 << 30;
/// What is left free on the disk.
const LEFT_FREE: u64 = 5 << 30;
const ROUNDS: usize = 3;
/// As the bus appends at saturation.
const BATCH: usize = 256;
const IN_FLIGHT: usize = 3;
const TARGET: Duration = Duration::from_secs(2);
/// Without progress for so long something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
const MIB: f64 = 1024.0 * 1024.0;

/// Fills a journal until it is killed: the child process of [`Filler`].
///
/// # Panics
/// Without a folder and the journal's size.
pub fn fill_in_child(arguments: &[String]) {
    let [folder, max_size] = arguments else { panic!("{FILL} needs a folder and a size") };
    let max_size = max_size.parse().expect("the journal's size");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fill(Path::new(folder), max_size));
}

/// Measures and prints the table.
pub fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let disk = common::disk_folder();
    let size = backlog(disk.path());
    // Room for the reserve, and for what is appended until the kill.
    let max_size = size + size / 4 + (64 << 20);
    common::print_head(
        "A backlog in the journal: ready after kill -9, and what is left after a drain",
        &[
            (
                "backlog",
                format!("{:.0} MiB of messages of {PAYLOAD} bytes, sync = always", size as f64 / MIB),
            ),
            ("rounds", format!("{ROUNDS} kills; the files are in the page cache")),
            ("disk", common::file_system(disk.path())),
        ],
    );
    let (full, empty) = (disk.path().join("full"), disk.path().join("empty"));
    let filled_in = runtime.block_on(fill_and_kill(&full, size, max_size));
    let before = Sizes::of(&full);

    println!(
        "  {:<24} {:>9}  {:<17} {:>13}  {:>10}",
        "journal", "ready s", "min - max", "resident MiB", "messages"
    );
    let mut seconds = 0.0;
    for (name, folder) in [("empty", &empty), ("with the backlog", &full)] {
        let starts = runtime.block_on(start_and_kill(folder, max_size));
        let (least, most) = range(&starts.seconds);
        seconds = median(&starts.seconds);
        println!(
            "  {name:<24} {seconds:>9.3}  {:<17} {:>13.1}  {:>10}",
            format!("{least:.3} - {most:.3}"),
            median(&starts.resident),
            starts.queued,
        );
        let bytes = starts.queued * PAYLOAD as u64;
        if folder == &full {
            assert!(
                bytes > size / 10 * 8 && bytes < max_size,
                "{bytes} bytes of messages are not the backlog"
            );
        } else {
            assert_eq!(bytes, 0, "the journal is not empty");
        }
    }
    let word = if seconds <= TARGET.as_secs_f64() { "reached" } else { "MISSED" };
    println!("\n  target {} s with the backlog: {word}\n", TARGET.as_secs());

    let drain = runtime.block_on(drain(&full, max_size));
    println!("  {:<24} {:>9}  {:>13}  {:>10}", "on the disk", "segments", "segments MiB", "index MiB");
    for (name, sizes) in [
        ("filled and killed", &before),
        ("drained, keep = 0", &drain.open),
        ("the same, closed", &Sizes::of(&full)),
    ] {
        let (segments, index) = (sizes.segment_bytes as f64 / MIB, sizes.index_bytes as f64 / MIB);
        println!("  {name:<24} {:>9}  {segments:>13.1}  {index:>10.1}", sizes.segments);
    }
    let rate = |time: Duration| drain.messages as f64 / time.as_secs_f64();
    println!(
        "\n  filled at {:.0} messages/s and drained at {:.0} (wall clock: depends on the disk)\n",
        rate(filled_in),
        rate(drain.time)
    );
}

/// How many bytes the backlog is to have.
fn backlog(disk: &Path) -> u64 {
    if let Ok(text) = std::env::var("SLUICEGATE_BENCH_BACKLOG") {
        let units = [("GiB", 30), ("MiB", 20)];
        let read = |(unit, shift): (&str, u32)| Some(text.strip_suffix(unit)?.parse::<u64>().ok()? << shift);
        let size = units.into_iter().find_map(read).filter(|size| *size >= 64 << 20);
        return size
            .unwrap_or_else(|| panic!("SLUICEGATE_BENCH_BACKLOG is {text:?}; a size from 64MiB, as 2GiB"));
    }
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(disk).output().expect("df runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let free: u64 = text.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("the figure of df");
    // The journal may take a quarter more before the kill is felt.
    let size = BACKLOG.min(free.saturating_sub(LEFT_FREE) / 5 * 4);
    assert!(size >= 64 << 20, "{free} bytes free on the disk: this needs more than {LEFT_FREE}");
    size
}

// ----- filling -----

/// Has a child fill the journal, and kills it when there is enough. How long it
/// took.
async fn fill_and_kill(folder: &Path, size: u64, max_size: u64) -> Duration {
    let start = Instant::now();
    let mut child = Filler::start(folder, max_size);
    let (mut bytes, mut progress) = (0, Instant::now());
    while bytes < size {
        tokio::time::sleep(LOOK).await;
        let now = Sizes::of(folder).segment_bytes;
        if now > bytes {
            (bytes, progress) = (now, Instant::now());
        }
        let ended = child.0.try_wait().expect("the state of the child");
        assert!(ended.is_none(), "the child that fills the journal ended: {ended:?}");
        assert!(progress.elapsed() < PATIENCE, "the journal stays at {bytes} bytes");
    }
    start.elapsed()
}

/// The child; killed with this value, in the middle of its work.
struct Filler(Child);

impl Filler {
    fn start(folder: &Path, max_size: u64) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("the path of the benchmark"));
        command.arg(FILL).arg(folder).arg(max_size.to_string()).stdin(Stdio::piped());
        Self(command.spawn().expect("the child starts"))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.0.kill().expect("the child is killed");
        self.0.wait().expect("the child has ended");
    }
}

/// The child's work: appends until it is killed.
async fn fill(folder: &Path, max_size: u64) {
    // It must not outlive its parent, however that ends.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let settings = common::journal_settings(folder, max_size, SyncMode::Always, Duration::from_secs(3600));
    let journal = Journal::open(&settings, common::journal_stream(STREAM)).expect("the journal opens");
    let streams = vec![journal.stream(STREAM).expect("the stream")];
    let topics: Vec<Arc<str>> = (0..common::DEVICES).map(|device| common::topic(device).into()).collect();
    let payloads: Vec<_> = (0..1000).map(common::payload).collect();
    let (tickets, mut issued) = mpsc::channel::<journal::Ticket>(IN_FLIGHT);
    tokio::spawn(async move {
        while let Some(ticket) = issued.recv().await {
            ticket.await.expect("the journal keeps the messages");
        }
    });
    for number in (0..).step_by(BATCH) {
        let append = |number: usize| {
            let (topic, payload) = (&topics[number % topics.len()], &payloads[number % payloads.len()]);
            let message = Message::received_now(topic.clone(), payload.clone());
            Append { message, streams: streams.clone() }
        };
        let ticket = journal.append((number..number + BATCH).map(append).collect()).await;
        tickets.send(ticket).await.expect("every ticket resolves");
    }
}

// ----- the gateway on it -----

struct Starts {
    seconds: Vec<f64>,
    /// MiB.
    resident: Vec<f64>,
    queued: u64,
}

/// Starts the gateway on a journal and kills it, a few times.
async fn start_and_kill(journal: &Path, max_size: u64) -> Starts {
    let broker = Broker::start().await;
    let bus = format!(
        "url = \"{}\"\nclient_id = \"bench\"\n[journal]\npath = \"{}\"\nmax_size = \"{max_size}B\"",
        broker.url(),
        journal.display()
    );
    let stream = format!(
        "topics = [\"flespi/message/gw/devices/+\"]\nkey = \"ident\"\n[script]\nadapter = \"mqtt-json\"\n\
         [destination]\ntype = \"mqtt\"\nurl = \"mqtt://{}\"\ntopic = \"fleet/out\"\n\
         [delivery]\nmax_backlog = \"{max_size}B\"\non_full = \"block\"\n",
        dead_end()
    );
    let folder = Folder::new().bus_lines(&bus).stream(STREAM, &stream);
    let mut starts = Starts { seconds: vec![], resident: vec![], queued: 0 };
    let start = Instant::now();
    let mut gateway = folder.start().await;
    for round in 0..ROUNDS {
        if round > 0 {
            gateway.kill();
            let start = Instant::now();
            gateway.restart().await;
            gateway.until_ready().await;
            starts.seconds.push(start.elapsed().as_secs_f64());
        } else {
            starts.seconds.push(start.elapsed().as_secs_f64());
        }
        let queued = settled_down(&gateway).await;
        assert!(
            round == 0 || queued == starts.queued,
            "{queued} messages after a kill, not {}",
            starts.queued
        );
        starts.queued = queued;
        starts.resident.push(resident(gateway.process()));
    }
    gateway.kill();
    starts
}

/// Waits until the stream has met its dead end, so that it has read what it
/// will hold in memory. What it has queued.
async fn settled_down(gateway: &Gateway) -> u64 {
    let what = "it is empty, or has met its dead end";
    let met = |stream: &sluicegate_tests::gateway::Stream| stream.queued == 0 || stream.troubled_by("");
    let stream = gateway.until(STREAM, what, met).await;
    assert_eq!(stream.read, stream.queued, "nothing is lost and nothing delivered: {stream:?}");
    stream.queued
}

// ----- the drain -----

struct Drain {
    messages: u64,
    time: Duration,
    /// What the open journal takes after it.
    open: Sizes,
}

/// Settles everything, waits until `keep` has passed, and closes the journal.
async fn drain(folder: &Path, max_size: u64) -> Drain {
    let settings = common::journal_settings(folder, max_size, SyncMode::Always, Duration::ZERO);
    let journal = Journal::open(&settings, common::journal_stream(STREAM)).expect("the journal opens");
    let stream = journal.stream(STREAM).expect("the stream");
    let messages = journal.counters(stream).queued;
    let start = Instant::now();
    let mut reader = journal.reader(stream, ReadRules::default());
    let mut read = 0;
    while read < messages {
        let next = tokio::time::timeout(PATIENCE, reader.next(1000)).await;
        let pending = next.unwrap_or_else(|_| panic!("no more than {read} of {messages} messages are read"));
        read += pending.len() as u64;
        let ended = pending.iter().map(|p| (p.position, Outcome::Delivered)).collect();
        journal.settle(stream, Settlement { ended, ..Settlement::default() });
    }
    let deadline = Instant::now() + PATIENCE;
    while journal.counters(stream).queued > 0 {
        assert!(Instant::now() < deadline, "not everything is settled: {:?}", journal.counters(stream));
        tokio::time::sleep(LOOK).await;
    }
    let time = start.elapsed();
    let counters = journal.counters(stream);
    assert!(counters.delivered == messages && counters.balance(), "{counters:?}");
    let deadline = Instant::now() + PATIENCE;
    while Sizes::of(folder).segments > 0 {
        assert!(Instant::now() < deadline, "segments stay behind: {:?}", Sizes::of(folder));
        tokio::time::sleep(LOOK).await;
    }
    assert_eq!(journal.check().await.expect("the journal can be read"), vec![]);
    let open = Sizes::of(folder);
    journal.close().await;
    Drain { messages, time, open }
}

/// What a journal takes on the disk.
#[derive(Debug, Default)]
struct Sizes {
    segments: u64,
    segment_bytes: u64,
    index_bytes: u64,
}

impl Sizes {
    /// Nothing while the folder is not there yet.
    fn of(folder: &Path) -> Self {
        let mut sizes = Self::default();
        let Ok(files) = std::fs::read_dir(folder) else { return sizes };
        for file in files {
            let file = file.expect("a file of the journal");
            // A segment may be removed at the same time.
            let Ok(bytes) = file.metadata().map(|metadata| metadata.len()) else { continue };
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "seg") {
                sizes.segments += 1;
                sizes.segment_bytes += bytes;
            } else if path.extension().is_some_and(|extension| extension == "redb") {
                sizes.index_bytes += bytes;
            }
        }
        sizes
    }
}
