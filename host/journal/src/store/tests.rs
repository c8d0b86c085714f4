#![allow(clippy::unwrap_used)]

mod crash;
mod damage;
mod reading;
mod rules;

use message::Message;

use super::sim::SimDisk;
use super::*;
use crate::counters::Outcome;
use crate::types::{DeadLetter, DeadLetterFilter, OnFull};

/// A store on a simulated disk, and what its readers were given.
struct Bench {
    disk: SimDisk,
    store: Store,
    given: Vec<(u32, Pending)>,
}

fn options() -> Options {
    Options {
        max_size: 64 << 20,
        keep: Duration::from_secs(3600),
        max_dead_letters: 1 << 20,
        segment: 4096,
        loaded_messages: 8192,
        loaded_bytes: 4 << 20,
    }
}

fn streams(names: &[&str]) -> Vec<StreamQuota> {
    let quota = Quota { max_backlog: 1 << 30, on_full: OnFull::ExpireOldest };
    let stream =
        |name: &&str| StreamQuota { name: (*name).to_owned(), quota, live_first: false, conflates: false };
    names.iter().map(stream).collect()
}

fn open(disk: &SimDisk, names: &[&str]) -> Store {
    Store::open(Arc::new(disk.clone()), options(), &streams(names)).unwrap()
}

fn message(text: &str) -> Message {
    let payload = text.to_owned().into();
    Message { topic: format!("t/{text}").into(), payload, received_at: message::unix_millis() }
}

fn for_streams(texts: &[&str], streams: &[u32]) -> Batch {
    let item = |text: &&str| {
        let item = Item { message: message(text), as_is: None, reread: false };
        (item, streams.iter().map(|s| StreamIndex(*s)).collect())
    };
    Batch { items: texts.iter().map(item).collect(), ..Batch::default() }
}

fn ended(position: Position, outcome: Outcome) -> Settlement {
    let mut settlement = Settlement { ended: vec![(position, outcome)], ..Settlement::default() };
    if outcome == Outcome::DeadLettered {
        settlement.dead_letters.push(letter(position, "no"));
    }
    settlement
}

fn letter(position: Position, reason: &str) -> DeadLetter {
    DeadLetter {
        position,
        at: 5,
        reason: reason.to_owned(),
        script: "s 1".to_owned(),
        message: message("dead"),
        delivery: None,
        reply: Some("400 no".to_owned()),
    }
}

/// The commit that replays these letters, and how many messages it has.
fn replay_work(
    store: &Store,
    letters: Vec<(DeadLetterId, StreamIndex, DeadLetter)>,
    as_is: bool,
) -> (Work, u64) {
    Replay::begin(store, DeadLetterFilter::default(), as_is).work(letters)
}

impl Bench {
    fn new(names: &[&str]) -> Self {
        let disk = SimDisk::new();
        let store = open(&disk, names);
        Self { disk, store, given: Vec::new() }
    }

    fn append(&mut self, texts: &[&str], streams: &[u32]) {
        self.commit(Work { batches: vec![for_streams(texts, streams)], ..Work::default() });
    }

    fn settle(&mut self, stream: u32, settlement: Settlement) {
        self.commit(Work { settlements: vec![(StreamIndex(stream), settlement)], ..Work::default() });
    }

    fn commit(&mut self, work: Work) {
        let ready = self.store.commit(&work, true).unwrap();
        self.take(ready);
        self.read_on();
        self.check();
    }

    /// Reads on for as long as there is room, as the writer does.
    fn read_on(&mut self) {
        while self.store.is_hungry() {
            let ready = self.store.read_on().unwrap();
            self.take(ready);
        }
    }

    fn take(&mut self, ready: Vec<ReadyBatch>) {
        for ReadyBatch { stream, messages, .. } in ready {
            self.given.extend(messages.into_iter().map(|m| (stream.0, m)));
        }
    }

    /// Ends the process and starts it again.
    fn restart(&mut self, names: &[&str]) {
        self.disk = self.disk.crash(|| false);
        self.store = open(&self.disk, names);
        self.given.clear();
        self.read_on();
        self.check();
    }

    /// Settles everything that a stream was given.
    fn settle_all(&mut self, stream: u32, outcome: Outcome) {
        let mine: Vec<_> = self.given.iter().filter(|(s, _)| *s == stream).map(|(_, p)| p.position).collect();
        self.given.retain(|(s, _)| *s != stream);
        for position in mine {
            self.settle(stream, ended(position, outcome));
        }
    }

    fn texts(&self, stream: u32) -> Vec<String> {
        let mine = self.given.iter().filter(|(s, _)| *s == stream);
        mine.map(|(_, p)| String::from_utf8(p.message.payload.to_vec()).unwrap()).collect()
    }

    fn counters(&self, stream: u32) -> Counters {
        self.store.counters(StreamIndex(stream)).0
    }

    fn check(&self) {
        assert_eq!(check(&self.store.index()).unwrap(), [], "the counters differ from the pending bits");
        for StreamIndex(stream) in self.store.streams.keys() {
            assert!(self.counters(*stream).balance(), "{:?}", self.counters(*stream));
        }
    }
}
