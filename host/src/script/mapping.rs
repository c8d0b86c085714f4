//! Whether a script kept the contract with what it returned.

use bytes::Bytes;

use super::bindings::{self, sluicegate::mapper::types};
use super::fault::one_line;
use super::limits::Limits;
use super::{BeforeImage, MappedDelivery, Mapping};

/// Where a message of the batch has been seen so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nowhere,
    Delivered,
    Rejected,
    Filtered,
}

impl Seen {
    fn describe(self) -> &'static str {
        match self {
            Self::Nowhere => "in nothing",
            Self::Delivered => "in a delivery",
            Self::Rejected => "rejected",
            Self::Filtered => "filtered",
        }
    }
}

/// Takes over what the script made of a batch of `messages`, or says in which
/// point it broke the contract. The `before` of the result is empty.
pub(super) fn check(raw: bindings::Mapping, messages: usize, limits: &Limits) -> Result<Mapping, String> {
    let most = limits.deliveries_of(messages);
    if raw.deliveries.len() > most {
        return Err(format!(
            "{} deliveries for {messages} messages; at most {most} are allowed",
            raw.deliveries.len()
        ));
    }
    let bytes = output_bytes(&raw);
    if bytes > limits.output_bytes {
        return Err(format!(
            "{} KiB returned in one call; at most {} KiB are allowed",
            bytes.div_ceil(1024),
            limits.output_bytes >> 10
        ));
    }
    let mut book = Book { seen: vec![Seen::Nowhere; messages] };
    let mut last_of = vec![None; messages];
    for (number, delivery) in raw.deliveries.iter().enumerate() {
        if delivery.messages.is_empty() {
            return Err(format!("delivery {number} carries no message"));
        }
        for &message in &delivery.messages {
            book.enter(message, Seen::Delivered)?;
            let last = &mut last_of[message as usize];
            if last.replace(number) == Some(number) {
                return Err(format!("delivery {number} carries message {message} twice"));
            }
        }
    }
    for rejection in &raw.rejections {
        book.enter(rejection.message, Seen::Rejected)?;
    }
    for &message in &raw.filtered {
        book.enter(message, Seen::Filtered)?;
    }
    if let Some(message) = book.seen.iter().position(|seen| *seen == Seen::Nowhere) {
        return Err(format!(
            "message {message} of {messages} is in no delivery, not rejected and not filtered"
        ));
    }
    Ok(Mapping {
        deliveries: raw.deliveries.into_iter().map(delivery).collect(),
        rejections: raw.rejections.into_iter().map(|r| (r.message, one_line(&r.reason))).collect(),
        filtered: raw.filtered,
        before: BeforeImage::default(),
    })
}

/// What each message of the batch has become.
struct Book {
    seen: Vec<Seen>,
}

impl Book {
    /// Only in deliveries a message may appear more than once.
    fn enter(&mut self, message: u32, now: Seen) -> Result<(), String> {
        let count = self.seen.len();
        let Some(seen) = self.seen.get_mut(message as usize) else {
            return Err(format!("message {message} {}, but the batch has {count}", now.describe()));
        };
        match (*seen, now) {
            (Seen::Nowhere, _) | (Seen::Delivered, Seen::Delivered) => {
                *seen = now;
                Ok(())
            }
            (before, now) if before == now => Err(format!("message {message} {} twice", now.describe())),
            (before, now) => Err(format!("message {message} {} and {}", before.describe(), now.describe())),
        }
    }
}

fn output_bytes(raw: &bindings::Mapping) -> usize {
    let deliveries = raw.deliveries.iter().map(|d| {
        let headers: usize = d.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        d.body.len() + d.target.as_ref().map_or(0, String::len) + headers
    });
    deliveries.sum::<usize>() + raw.rejections.iter().map(|r| r.reason.len()).sum::<usize>()
}

fn delivery(raw: types::Delivery) -> MappedDelivery {
    MappedDelivery {
        messages: raw.messages,
        target: raw.target,
        headers: raw.headers,
        body: Bytes::from(raw.body),
    }
}
