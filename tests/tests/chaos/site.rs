//! One destination with everything before it, from start to verdict.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use journal::{
    Counters, DeadLetter, DeadLetterFilter, Journal, JournalSettings, OnFull, Quota, StreamQuota, SyncMode,
};
use sluicegate_tests::LOOK;
use sluicegate_tests::broker::{Broker, BrokerOptions};
use sluicegate_tests::fleet::Fleet;
use sluicegate_tests::gateway::{Folder, Stream};
use sluicegate_tests::oracle::{Report, Tally};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::receiver::{ACCESS_TOKEN, Kind, Receiver};
use sluicegate_tests::steady::Steady;
use standins::{Inbox, Received};
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::far::Far;
use crate::faults::Counts;
use crate::near::Near;

/// Time for everything to settle when nothing fails any more. The gateway's
/// pauses between attempts have grown to half a minute by then, and five sites
/// share a machine that may be slow.
const SETTLING: Duration = Duration::from_secs(300);

/// A script cannot map the last of so many messages.
const BROKEN: u64 = 50;

#[derive(Clone, Copy)]
pub struct Plan {
    pub kind: Kind,
    pub time: Duration,
    pub seed: u64,
}

pub struct Outcome {
    pub report: Report,
    pub counts: Counts,
    pub history: Vec<String>,
}

/// What was done, and when.
pub struct History {
    began: Instant,
    lines: Mutex<Vec<String>>,
}

impl History {
    /// A fault that is over.
    pub fn add(&self, text: String) {
        let line = format!("until {:8.3} s  {text}", self.began.elapsed().as_secs_f64());
        self.lines.lock().unwrap().push(line);
    }
}

/// Runs it all and judges it.
///
/// # Panics
/// When something does not start or a page of the admin listener is not what
/// it has to be.
pub async fn run(plan: Plan) -> Outcome {
    let Plan { kind, time, seed } = plan;
    let name = kind.names().0;
    let broker = Broker::start_with(BrokerOptions { persistence: true, ..BrokerOptions::default() }).await;
    let folder = Folder::new();
    let receiver = Receiver::start(kind, folder.path()).await;
    let bus_link = Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, broker.port()))).await;
    let far_link = Proxy::start(receiver.plug().address()).await;
    let bus =
        format!("url = \"mqtt://{}\"\nclient_id = \"gateway\"\nkeep_alive = \"5s\"", bus_link.address());
    let gateway = folder
        .bus_lines(&bus)
        .env("ACCESS_TOKEN", ACCESS_TOKEN)
        .stream("stream", &stream_file(kind, &receiver, &far_link))
        .start()
        .await;
    // AWS allows 100 publishes a second; the others have to catch up as well.
    let rate = if kind == Kind::AwsIot { 20 } else { 50 };
    let fleet = Fleet { broken: Some(BROKEN), ..Fleet::new(13, u64::MAX) };
    let steady = Steady::start(broker.port(), fleet, rate);
    let inbox = receiver.inbox.clone();
    let mut ledger = Ledger { kind, tally: Tally::new(fleet, |_| true), shadows: BTreeMap::new(), fleet };
    let mut near = Near {
        broker,
        link: bus_link,
        gateway,
        dice: Dice::new(seed, &format!("{name} near")),
        counts: Counts::default(),
    };
    let mut far = Far {
        receiver,
        link: far_link,
        dice: Dice::new(seed, &format!("{name} far")),
        counts: Counts::default(),
    };
    let history = History { began: Instant::now(), lines: Mutex::default() };

    tokio::select! {
        _ = async { tokio::join!(near.suffer(time, &steady, &history), far.suffer(time, &history)) } => {}
        () = ledger.keep(&inbox) => {}
    }
    history.add("all is whole".to_owned());
    let counts = near.counts.plus(far.counts);

    let end = Instant::now() + SETTLING;
    let sent = timeout(SETTLING, steady.finish()).await.expect("the broker takes the messages over");
    ledger.published(sent);
    let (stream, settled) = loop {
        ledger.take(&inbox);
        let stream = near.gateway.stream("stream").await;
        if stream.queued == 0 && ledger.is_complete(&near.gateway.log_lines_after_kills()) {
            break (stream, true);
        }
        if Instant::now() > end {
            history.add(format!("not settled within {SETTLING:?}"));
            break (stream, false);
        }
        sleep(10 * LOOK).await;
    };
    history.add(format!("settled: {stream:?}"));
    if settled {
        let status = near.gateway.terminate().await;
        assert_eq!(status.code(), Some(0), "a clean stop: {status}");
    } else {
        near.gateway.kill();
    }
    ledger.take(&inbox);
    let left = Left::behind(near.gateway.path()).await;
    let report = ledger.close(&left, &stream);
    Outcome { report, counts, history: history.lines.into_inner().unwrap() }
}

/// The stream of the other tests, through the link, with two lanes where the
/// destination has a connection for each. AWS's shadows show only the newest
/// of what came together, so each message is published there as well.
fn stream_file(kind: Kind, receiver: &Receiver, link: &Proxy) -> String {
    let mut text = receiver.stream_through(link);
    if kind == Kind::AwsIot {
        text = text.replace("[script.settings]\n", "[script.settings]\nmqtt_topic = \"fleet/{ident}\"\n");
    }
    text + "[delivery]\nlanes = 2\n"
}

/// What the gateway has left on the disk, read when it has ended.
struct Left {
    counters: Counters,
    letters: Vec<DeadLetter>,
    /// Where the counters do not say what the marks say.
    differences: Vec<String>,
}

impl Left {
    async fn behind(folder: &Path) -> Self {
        let settings = JournalSettings {
            path: folder.join("data/journal"),
            max_size: 10 << 30,
            keep: Duration::from_secs(3600),
            sync: SyncMode::Always,
            dead_letters_max_size: 1 << 30,
        };
        let quota = Quota { max_backlog: u64::MAX, on_full: OnFull::Block };
        let streams =
            vec![StreamQuota { name: "stream".to_owned(), quota, live_first: false, conflates: false }];
        let journal = Journal::open(&settings, streams).expect("the journal opens");
        let stream = journal.stream("stream").expect("its stream");
        let letters = journal.dead_letters(DeadLetterFilter::default()).await.expect("the dead letters");
        let differences = journal.check().await.expect("the check of the counters");
        let left = Self {
            counters: journal.counters(stream),
            letters: letters.into_iter().map(|(_, _, letter)| letter).collect(),
            differences: differences.into_iter().map(|difference| difference.what).collect(),
        };
        journal.close().await;
        left
    }
}

/// What the destination got, and what the stream must have made of it.
struct Ledger<W> {
    kind: Kind,
    fleet: Fleet,
    tally: Tally<W>,
    /// The newest state of each shadow.
    shadows: BTreeMap<String, u64>,
}

impl<W: Fn(u64) -> bool> Ledger<W> {
    /// Takes what arrives, for ever: a long run does not fit into memory.
    async fn keep(&mut self, inbox: &Inbox) {
        loop {
            self.take(inbox);
            sleep(LOOK).await;
        }
    }

    fn take(&mut self, inbox: &Inbox) {
        for received in inbox.drain() {
            match &received {
                Received::Shadow(update) => {
                    let number = update.merged["n"].as_u64().unwrap_or(u64::MAX);
                    self.shadows.insert(update.thing.clone(), number);
                }
                // What was sent evenly comes in a heap out of a link that held
                // it back, and what was sent in time may come late: these two
                // rules of the destinations are broken by the link.
                Received::Violation(text)
                    if text.contains("publishes in a second") || text.contains("1.5 keep-alives") => {}
                _ => self.tally.received(&received),
            }
        }
    }

    fn published(&mut self, messages: u64) {
        self.fleet.messages = messages;
        self.tally.published(messages);
    }

    fn is_complete(&mut self, log: &[sluicegate_tests::gateway::LogLine]) -> bool {
        self.tally.logged(log);
        self.tally.missing() == 0 && self.stale_shadows().is_empty()
    }

    /// Shadows that do not end with the newest message of their device.
    fn stale_shadows(&self) -> Vec<String> {
        if self.kind != Kind::AwsIot {
            return Vec::new();
        }
        let mut newest = BTreeMap::new();
        for number in (0..self.fleet.messages).filter(|number| !self.fleet.is_broken(*number)) {
            newest.insert(self.fleet.device(number), number);
        }
        let stale = newest.iter().filter(|(device, number)| self.shadows.get(*device) != Some(number));
        stale
            .map(|(device, number)| format!("the shadow of {device} does not end with message {number}"))
            .collect()
    }

    fn close(mut self, left: &Left, stream: &Stream) -> Report {
        let Left { counters, letters, differences } = left;
        self.tally.kept(letters.iter().map(|letter| {
            (String::from_utf8_lossy(&letter.message.payload).into_owned(), letter.reason.clone())
        }));
        differences.iter().for_each(|what| self.tally.wrong(format!("the check of the counters: {what}")));
        if !counters.balance() || counters.dead_lettered != letters.len() as u64 {
            let count = letters.len();
            self.tally
                .wrong(format!("the counters in the journal, which has {count} dead letters: {counters:?}"));
        }
        self.stale_shadows().into_iter().for_each(|complaint| self.tally.wrong(complaint));
        // That they balance while it runs was checked whenever they were read.
        if (counters.queued, counters.expired, counters.superseded, counters.filtered) != (0, 0, 0, 0) {
            self.tally.wrong(format!("the counters: {counters:?}, shown as {stream:?}"));
        }
        self.tally.close()
    }
}
