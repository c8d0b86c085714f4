//! What the journal costs: CPU time of the whole process per message, from an
//! append to the settlement of the message, against the same loop with a plain
//! channel in the journal's place.
//!
//! The loop is the gateway's: a bus that appends what has arrived and waits for
//! the tickets in order, with so many messages unacknowledged at most, and a
//! stream that reads batches and settles each as delivered.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use journal::{Append, Journal, Outcome, ReadRules, Settlement, StreamIndex, SyncMode, Ticket};
use message::Message;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::interval;

use crate::common::{self, DEVICES, PAYLOAD, median, process_cpu, range};

const ROUNDS: usize = 3;
/// What the bus appends at once under load, and how many messages it leaves
/// unacknowledged.
const BATCH: usize = 256;
const WINDOW: usize = 1024;
/// What a lane reads at once.
const READ: usize = 128;
const MAX_SIZE: u64 = 4 << 30;
const PATIENCE: Duration = Duration::from_secs(120);
/// Microseconds that it may cost per message at saturation: a fifth of what the
/// way through the gateway may cost altogether (see `end_to_end`).
const TARGET: f64 = 3.0;

/// How fast messages come.
struct Load {
    name: &'static str,
    messages: usize,
    /// So many messages arrive together, once in so long; none: at once.
    pace: Option<(usize, Duration)>,
}

const LOADS: [Load; 3] = [
    Load { name: "at saturation", messages: 200_000, pace: None },
    Load { name: "5,000 a second", messages: 15_000, pace: Some((5, Duration::from_millis(1))) },
    Load { name: "500 a second", messages: 1_500, pace: Some((1, Duration::from_millis(2))) },
];

/// What stands between bus and stream.
const WAYS: [(&str, Option<SyncMode>); 3] =
    [("a channel", None), ("sync = none", Some(SyncMode::None)), ("sync = always", Some(SyncMode::Always))];

/// One load on one way, and what it has cost so far.
#[derive(Default)]
struct Figures {
    us: Vec<f64>,
    rate: Vec<f64>,
}

/// Measures and prints the table.
pub fn run() {
    let disk = common::disk_folder();
    common::print_head(
        "The journal: CPU time of the process per message, appended, read and settled",
        &[
            (
                "message",
                format!(
                    "{PAYLOAD} bytes, {DEVICES} devices; at saturation {BATCH} an append, {WINDOW} unacknowledged"
                ),
            ),
            ("rounds", format!("{ROUNDS}, all ways taking turns; medians")),
            ("disk", common::file_system(disk.path())),
        ],
    );
    // As in the gateway.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut figures: Vec<Vec<Figures>> =
        LOADS.iter().map(|_| WAYS.iter().map(|_| Figures::default()).collect()).collect();
    for _ in 0..ROUNDS {
        for (load, figures) in LOADS.iter().zip(&mut figures) {
            for ((_, sync), figures) in WAYS.iter().zip(figures) {
                let (cpu, wall) = measure(load, *sync, disk.path(), &runtime);
                if let Some((batch, every)) = load.pace {
                    let due = every * u32::try_from(load.messages / batch).expect("a count");
                    assert!(wall < due + due / 10, "{}: {wall:?} in place of {due:?}", load.name);
                }
                figures.us.push(cpu.as_secs_f64() * 1e6 / load.messages as f64);
                figures.rate.push(load.messages as f64 / wall.as_secs_f64());
            }
        }
    }
    println!(
        "  {:<16} {:<14} {:>8}  {:<14} {:>11}  {:>12}",
        "messages", "through", "us", "min - max", "journal us", "messages/s *"
    );
    for (load, figures) in LOADS.iter().zip(&figures) {
        let channel = &figures[0];
        for ((way, sync), figures) in WAYS.iter().zip(figures) {
            let (least, most) = range(&figures.us);
            let journal = match sync {
                None => String::new(),
                Some(_) => format!("{:.2}", cost(figures, channel)),
            };
            println!(
                "  {:<16} {:<14} {:>8.2}  {:<14} {:>11}  {:>12.0}",
                load.name,
                way,
                median(&figures.us),
                format!("{least:.2} - {most:.2}"),
                journal,
                median(&figures.rate),
            );
        }
    }
    let saturated = &figures[0];
    for (number, (way, _)) in WAYS.iter().enumerate().skip(1) {
        let figure = cost(&saturated[number], &saturated[0]);
        println!("\n  at saturation, {way}: {}", common::verdict(figure, TARGET, "us"));
    }
    println!("\n  * wall clock; at saturation it depends on the disk and what else the machine does\n");
}

/// What the journal adds: each round against the channel of the same round.
fn cost(figures: &Figures, channel: &Figures) -> f64 {
    let pairs = figures.us.iter().zip(&channel.us);
    median(&pairs.map(|(with, without)| with - without).collect::<Vec<_>>())
}

/// CPU and wall time of one run, until everything is settled and, with a
/// journal, on the disk.
fn measure(load: &Load, sync: Option<SyncMode>, disk: &Path, runtime: &Runtime) -> (Duration, Duration) {
    let source = Source::new();
    match sync {
        None => {
            let start = (process_cpu(), Instant::now());
            runtime.block_on(patiently(through_channel(load, &source)));
            (process_cpu() - start.0, start.1.elapsed())
        }
        Some(sync) => {
            let folder = tempfile::tempdir_in(disk).expect("a folder for the journal");
            let keep = Duration::from_secs(3600);
            let settings = common::journal_settings(folder.path(), MAX_SIZE, sync, keep);
            let journal =
                Journal::open(&settings, common::journal_stream("bench")).expect("the journal opens");
            let stream = journal.stream("bench").expect("the stream");
            let start = (process_cpu(), Instant::now());
            runtime.block_on(patiently(async {
                through_journal(load, &source, &journal, stream).await;
                journal.close().await;
            }));
            let cost = (process_cpu() - start.0, start.1.elapsed());
            let counters = journal.counters(stream);
            assert_eq!((counters.delivered, counters.queued), (load.messages as u64, 0), "{counters:?}");
            assert!(counters.balance(), "{counters:?}");
            cost
        }
    }
}

async fn patiently(work: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, work).await.expect("a run ends in time");
}

/// Where the bus appends.
enum Way {
    /// Hands each batch over and resolves its ticket when it is taken.
    Channel(mpsc::Sender<(Vec<Append>, oneshot::Sender<()>)>),
    Journal(Journal),
}

/// What the bus waits for before it acknowledges.
enum Unacknowledged {
    InChannel(oneshot::Receiver<()>),
    InJournal(Ticket),
}

async fn through_channel(load: &Load, source: &Source) {
    let (appends, mut arriving) = mpsc::channel::<(Vec<Append>, oneshot::Sender<()>)>(WINDOW);
    let reading = tokio::spawn(async move {
        let mut read = 0;
        while let Some((batch, ticket)) = arriving.recv().await {
            read += black_box(batch).len();
            ticket.send(()).expect("a task waits for the ticket");
        }
        read
    });
    feed(load, source, StreamIndex(0), Way::Channel(appends)).await;
    assert_eq!(reading.await.expect("the stream ends"), load.messages);
}

async fn through_journal(load: &Load, source: &Source, journal: &Journal, stream: StreamIndex) {
    let mut reader = journal.reader(stream, ReadRules::default());
    let (settler, wanted) = (journal.clone(), load.messages);
    let reading = tokio::spawn(async move {
        let mut read = 0;
        while read < wanted {
            let pending = reader.next(READ).await;
            read += pending.len();
            let ended = pending.iter().map(|p| (p.position, Outcome::Delivered)).collect();
            settler.settle(stream, Settlement { ended, ..Settlement::default() });
        }
        read
    });
    feed(load, source, stream, Way::Journal(journal.clone())).await;
    assert_eq!(reading.await.expect("the stream ends"), load.messages);
}

/// Appends the messages of the load as they come, and waits for the tickets in
/// order.
async fn feed(load: &Load, source: &Source, stream: StreamIndex, way: Way) {
    let window = Arc::new(Semaphore::new(WINDOW));
    let (tickets, mut issued) = mpsc::channel::<(Unacknowledged, OwnedSemaphorePermit)>(WINDOW);
    let acknowledging = tokio::spawn(async move {
        while let Some((ticket, _room)) = issued.recv().await {
            match ticket {
                Unacknowledged::InChannel(ticket) => ticket.await.expect("the stream takes the batch"),
                Unacknowledged::InJournal(ticket) => ticket.await.expect("the journal keeps the messages"),
            }
        }
    });
    let (batch, every) = load.pace.map_or((BATCH, None), |(batch, every)| (batch, Some(every)));
    // What a late timer has missed comes at once.
    let mut ticks = every.map(interval);
    let mut sent = 0;
    while sent < load.messages {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let count = batch.min(load.messages - sent);
        let room = window.clone().acquire_many_owned(u32::try_from(count).expect("a batch")).await;
        let messages = (sent..sent + count).map(|number| source.message(number));
        let batch = messages.map(|message| Append { message, streams: vec![stream] }).collect();
        let ticket = match &way {
            Way::Channel(appends) => {
                let (answer, ticket) = oneshot::channel();
                appends.send((batch, answer)).await.expect("the stream reads");
                Unacknowledged::InChannel(ticket)
            }
            Way::Journal(journal) => Unacknowledged::InJournal(journal.append(batch).await),
        };
        assert!(
            tickets.send((ticket, room.expect("the window is open"))).await.is_ok(),
            "the tickets are waited for"
        );
        sent += count;
    }
    drop(tickets);
    acknowledging.await.expect("every ticket resolves");
}

/// Messages that are there already: making them is not what is measured.
struct Source {
    topics: Vec<Arc<str>>,
    payloads: Vec<Bytes>,
}

impl Source {
    fn new() -> Self {
        Self {
            topics: (0..DEVICES).map(|device| common::topic(device).into()).collect(),
            payloads: (0..1000).map(common::payload).collect(),
        }
    }

    fn message(&self, number: usize) -> Message {
        let topic = self.topics[number % self.topics.len()].clone();
        Message::received_now(topic, self.payloads[number % self.payloads.len()].clone())
    }
}
