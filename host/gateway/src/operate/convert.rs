//! What the gateway knows, as the admin listener answers it.

use admin_api::answer::{
    Difference, Letter, LetterDelivery, MessageLine, ScriptChange, StreamLine, VersionLine, text_or_base64,
};
use journal::{Counters, DeadLetter, DeadLetterId, Fill, Holding};
use serde_json::{Map, Value, json};
use stream::reload::Reloaded;
use stream::reload::shadow::{self, Fate, Sent};
use stream::reload::versions::Accepted;

/// The line of a stream with these counters of which nothing else is known.
pub fn stream_line(name: &str, counters: &Counters, now: u64) -> StreamLine {
    StreamLine {
        name: name.to_owned(),
        state: "stopped".to_owned(),
        reason: None,
        code: None,
        paused: false,
        script: None,
        read: counters.read,
        reread: counters.reread,
        delivered: counters.delivered,
        filtered: counters.filtered,
        expired: counters.expired,
        superseded: counters.superseded,
        dead_lettered: counters.dead_lettered,
        queued: counters.queued,
        counters_balance: counters.balance(),
        retries: 0,
        lag: lag(counters, now),
        holds_bus: false,
        last_error: None,
        note: None,
        refused: None,
    }
}

/// The outcome of a reload, an update, a rollback or a comparison.
pub fn script_change(stream: &str, outcome: &Reloaded) -> ScriptChange {
    let comparison = outcome.comparison.as_ref();
    ScriptChange {
        stream: stream.to_owned(),
        before: outcome.before.clone(),
        after: outcome.after.clone(),
        taken: outcome.replaced,
        refusal: outcome.refusal.clone(),
        compared: comparison.map(|found| found.messages),
        differing: comparison.map_or(0, |found| found.differing),
        differences: comparison
            .map(|found| found.differences.iter().map(difference).collect())
            .unwrap_or_default(),
    }
}

fn difference(difference: &shadow::Difference) -> Difference {
    Difference {
        message: MessageLine::of(&difference.message),
        old: lines(&difference.old),
        new: lines(&difference.new),
    }
}

/// A fate as `sluicegate map` prints it, without the message's number.
fn lines(fate: &Fate) -> Vec<Value> {
    match fate {
        Fate::Delivered(sent) => sent.iter().map(delivery).collect(),
        Fate::Filtered => vec![json!({"filtered": true})],
        Fate::Rejected(reason) => vec![json!({"rejected": reason})],
        Fate::Failed(fault) => vec![json!({"failed": fault})],
    }
}

fn delivery(sent: &Sent) -> Value {
    let headers: Map<String, Value> =
        sent.headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    let (text, base64) = text_or_base64(&sent.body);
    let mut line = json!({"target": sent.target, "headers": headers});
    match (text, base64) {
        (Some(text), _) => line["body"] = text.into(),
        (None, base64) => line["body_base64"] = base64.into(),
    }
    line
}

/// An accepted version.
pub fn version_line(accepted: Accepted) -> VersionLine {
    let Accepted { version, name, source, accepted_at, .. } = accepted;
    VersionLine { version, name, source, accepted_at }
}

/// Age of the oldest queued message in seconds; 0 with an empty queue.
pub fn lag(counters: &Counters, now: u64) -> f64 {
    counters.oldest.map_or(0.0, |oldest| now.saturating_sub(oldest) as f64 / 1000.0)
}

/// The highest of 50, 80 and 100 percent that the journal has reached.
pub fn alarm(holding: &Holding) -> Option<u8> {
    let Fill { used: bytes, limit: max } = holding.bytes;
    let reached = |percent: &u8| u128::from(bytes) * 100 >= u128::from(max) * u128::from(*percent);
    [100, 80, 50].into_iter().find(|percent| max > 0 && reached(percent))
}

/// The dead letter of the journal as it is shown.
pub fn letter(id: DeadLetterId, stream: String, letter: &DeadLetter) -> Letter {
    let (payload, payload_base64) = text_or_base64(&letter.message.payload);
    let delivery = letter.delivery.as_ref().map(|delivery| {
        let (body, body_base64) = text_or_base64(&delivery.body);
        let (target, headers) = (delivery.target.clone(), delivery.headers.clone());
        LetterDelivery { target, headers, body, body_base64 }
    });
    Letter {
        id: id.0,
        stream,
        at: letter.at,
        reason: letter.reason.clone(),
        reply: letter.reply.clone(),
        script: letter.script.clone(),
        position: letter.position.to_string(),
        topic: letter.message.topic.to_string(),
        received_at: letter.message.received_at,
        payload,
        payload_base64,
        delivery,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarm_rises_at_50_80_and_100_percent() {
        let at = |bytes, max| {
            alarm(&Holding {
                messages: 0,
                bytes: Fill { used: bytes, limit: max },
                dead_letters: Fill::default(),
                full: false,
                holder: None,
                broken: None,
            })
        };
        assert_eq!([at(0, 10), at(49, 100), at(0, 0)], [None; 3]);
        assert_eq!([at(5, 10), at(79, 100)], [Some(50); 2]);
        assert_eq!([at(8, 10), at(99, 100)], [Some(80); 2]);
        assert_eq!([at(10, 10), at(u64::MAX, 10)], [Some(100); 2]);
    }
}
