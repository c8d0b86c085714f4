//! Judges a run: what was published, what arrived, what became of the rest.
//!
//! Published means: taken over by the broker (PUBACK) and, where that broker
//! was killed, in its file when it died ([`crate::steady`]). Every such number
//! must have arrived at least once, or be a dead letter with a reason; nothing
//! else may have arrived; the messages of a device arrive in their order, where
//! what comes again may come late; and everything is as it was published.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use standins::Received;

use crate::fleet::{Arrival, Fleet, read};
use crate::gateway::LogLine;

/// Of each kind of complaint, so many are kept in words.
const WORDS: usize = 10;

/// What the far side of a stream got, in numbers.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages that should have come.
    pub sent: u64,
    /// How many of them did.
    pub delivered: u64,
    /// How often one came again.
    pub repeats: u64,
    /// Neither delivered nor a dead letter.
    pub missing: u64,
    /// Changed, of a wrong device, never published, or against a rule of the
    /// destination.
    pub wrong: u64,
    /// Came for the first time after a later message of its device.
    pub out_of_order: u64,
    /// Messages that are dead letters (and may have been delivered as well).
    pub dead_letters: u64,
    /// The first of what is wrong, in words.
    pub complaints: Vec<String>,
}

/// Counts arrivals and dead letters.
pub struct Tally<W> {
    fleet: Fleet,
    wanted: W,
    times: HashMap<u64, u64>,
    last: BTreeMap<String, u64>,
    dead: BTreeMap<u64, String>,
    report: Report,
}

impl<W: Fn(u64) -> bool> Tally<W> {
    /// Those of the fleet's messages that `wanted` names should come.
    pub fn new(fleet: Fleet, wanted: W) -> Self {
        Self {
            fleet,
            wanted,
            times: HashMap::new(),
            last: BTreeMap::new(),
            dead: BTreeMap::new(),
            report: Report::default(),
        }
    }

    /// Something that the receiver recorded.
    pub fn received(&mut self, received: &Received) {
        match read(received) {
            Ok(arrivals) => arrivals.iter().for_each(|arrival| self.arrived(arrival)),
            Err(error) => self.wrong(error),
        }
    }

    /// A numbered message.
    pub fn arrived(&mut self, arrival: &Arrival) {
        let Arrival { device, number, .. } = arrival;
        if let Err(error) = self.fleet.check(arrival) {
            return self.wrong(error);
        }
        if !(self.wanted)(*number) {
            return self.wrong(format!("message {number} has no business here"));
        }
        let count = self.times.entry(*number).or_default();
        *count += 1;
        if *count > 1 {
            self.report.repeats += 1;
            return;
        }
        let last = self.last.entry(device.clone()).or_insert(*number);
        if *last > *number {
            self.report.out_of_order += 1;
            let text = format!("{device}: message {number} came after message {last}");
            self.report.complain(text);
        }
        *last = (*last).max(*number);
    }

    /// A dead letter.
    pub fn buried(&mut self, payload: &str, reason: &str) {
        match Fleet::number_of(payload) {
            Some(number) if number < self.fleet.messages && !reason.is_empty() => {
                self.dead.insert(number, reason.to_owned());
            }
            _ => self.wrong(format!("a dead letter {payload:?} with the reason {reason:?}")),
        }
    }

    /// The dead letters in lines of the gateway's log.
    pub fn logged(&mut self, lines: &[LogLine]) {
        let text =
            |line: &LogLine, key| line.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        for line in lines.iter().filter(|line| line["message"] == "dead letter") {
            self.buried(&text(line, "payload"), &text(line, "reason"));
        }
    }

    /// The dead letters that the journal has when all is over, each with
    /// payload and reason. Only these count then: a line of the log is written
    /// before its letter is durable.
    pub fn kept(&mut self, letters: impl IntoIterator<Item = (String, String)>) {
        self.dead.clear();
        for (payload, reason) in letters {
            self.buried(&payload, &reason);
        }
    }

    /// Something that must not be and is none of the other.
    pub fn wrong(&mut self, complaint: String) {
        self.report.wrong += 1;
        self.report.complain(complaint);
    }

    /// So many messages were published, if it was not known before.
    pub fn published(&mut self, messages: u64) {
        self.fleet.messages = messages;
    }

    /// How many are neither delivered nor a dead letter so far.
    pub fn missing(&self) -> u64 {
        self.all_missing().count() as u64
    }

    fn all_missing(&self) -> impl Iterator<Item = u64> {
        let gone = |number: &u64| !self.times.contains_key(number) && !self.dead.contains_key(number);
        (0..self.fleet.messages).filter(|number| (self.wanted)(*number)).filter(gone)
    }

    /// The sum.
    pub fn close(mut self) -> Report {
        let unknown = self.times.keys().chain(self.dead.keys()).filter(|n| **n >= self.fleet.messages).max();
        if let Some(unknown) = unknown {
            self.wrong(format!("message {unknown} was never published"));
        }
        let missing: Vec<u64> = self.all_missing().collect();
        let report = &mut self.report;
        report.sent = (0..self.fleet.messages).filter(|number| (self.wanted)(*number)).count() as u64;
        report.delivered = self.times.len() as u64;
        report.dead_letters = self.dead.len() as u64;
        report.missing = missing.len() as u64;
        for number in missing {
            report.complain(format!("message {number} of {} is missing", self.fleet.device(number)));
        }
        self.report
    }
}

impl Report {
    /// Whether nothing is missing, wrong or out of order.
    pub fn is_clean(&self) -> bool {
        (self.missing, self.wrong, self.out_of_order) == (0, 0, 0)
    }

    fn complain(&mut self, text: String) {
        if self.complaints.len() < 3 * WORDS {
            self.complaints.push(text);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, delivered, repeats, missing, wrong, out_of_order, dead_letters, .. } = self;
        write!(
            f,
            "{sent} sent, {delivered} delivered, {repeats} repeats, {missing} missing, {wrong} wrong, \
             {out_of_order} out of order, {dead_letters} dead letters"
        )?;
        self.complaints.iter().try_for_each(|complaint| write!(f, "\n  {complaint}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::fleet::Content;

    const FLEET: Fleet = Fleet { devices: 2, messages: 6, broken: Some(6) };

    fn publish(number: u64) -> Received {
        let payload = Bytes::from(FLEET.payload(number));
        Received::Publish { topic: "out".to_owned(), payload, properties: vec![] }
    }

    fn judged(received: &[Received], dead: &[(u64, &str)]) -> Report {
        let mut tally = Tally::new(FLEET, |_| true);
        received.iter().for_each(|received| tally.received(received));
        dead.iter().for_each(|(number, reason)| tally.buried(&FLEET.payload(*number), reason));
        tally.close()
    }

    #[test]
    fn complete_result_has_no_problem() {
        let all: Vec<Received> = [0, 1, 2, 3, 0, 1, 4].map(publish).into();
        let report = judged(&all, &[(5, "no JSON")]);
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.sent, report.delivered, report.repeats, report.dead_letters), (6, 5, 2, 1));
    }

    #[test]
    fn logged_but_lost_dead_letter_is_missing() {
        let judged = |kept: &[u64]| {
            let mut tally = Tally::new(FLEET, |_| true);
            [0, 1, 2, 3].map(publish).iter().for_each(|received| tally.received(received));
            [4, 5].iter().for_each(|number| tally.buried(&FLEET.payload(*number), "refused"));
            assert_eq!(tally.missing(), 0);
            tally.kept(kept.iter().map(|number| (FLEET.payload(*number), "refused".to_owned())));
            tally.close()
        };
        assert!(judged(&[5, 4]).is_clean());
        let lost = judged(&[5]);
        assert_eq!((lost.missing, lost.dead_letters), (1, 1), "{lost}");
    }

    #[test]
    fn each_kind_of_loss_is_counted() {
        let missing = judged(&[0, 1, 3, 4].map(publish), &[(5, "no JSON")]);
        assert_eq!((missing.missing, missing.is_clean()), (1, false), "{missing}");
        // Devices take turns: 2 is of unit-0 and comes after 4.
        let disorder = judged(&[0, 1, 4, 2, 3].map(publish), &[(5, "no JSON")]);
        assert_eq!((disorder.out_of_order, disorder.missing), (1, 0), "{disorder}");
        let mut unknown = Tally::new(FLEET, |_| true);
        (0..6).for_each(|number| unknown.buried(&FLEET.payload(number), "refused"));
        unknown.published(5);
        assert_eq!(unknown.close().wrong, 1);
        let without_reason = judged(&[0, 1, 2, 3, 4].map(publish), &[(5, "")]);
        assert_eq!((without_reason.wrong, without_reason.missing), (1, 1), "{without_reason}");
        let violation = judged(&[Received::Violation("QoS 0".to_owned())], &[]);
        assert_eq!((violation.wrong, violation.missing), (1, 6), "{violation}");
    }

    #[test]
    fn changed_or_invented_message_is_wrong() {
        let altered = |change: fn(&mut Arrival)| {
            let content = Content::Object(FLEET.message(1));
            let mut arrival = Arrival { device: "unit-1".to_owned(), number: 1, content };
            change(&mut arrival);
            let mut tally = Tally::new(FLEET, |_| true);
            tally.arrived(&arrival);
            tally.close().wrong
        };
        assert_eq!(altered(|_| {}), 0);
        assert_eq!(altered(|a| a.device = "unit-0".to_owned()), 1);
        assert_eq!(altered(|a| a.number = 6), 1);
        assert_eq!(altered(|a| a.number = 3), 1);
        assert_eq!(altered(|a| a.content = Content::Object(json!({ "n": 1, "ident": "unit-1" }))), 1);
        // A broken message cannot have been mapped by anybody.
        assert_eq!(
            altered(|a| {
                a.number = 5;
                a.content = Content::Object(FLEET.message(5));
            }),
            1
        );
    }

    #[test]
    fn broken_message_keeps_its_number() {
        assert_eq!(Fleet::number_of(&FLEET.payload(5)), Some(5));
        assert!(serde_json::from_str::<serde_json::Value>(&FLEET.payload(5)).is_err());
    }
}
