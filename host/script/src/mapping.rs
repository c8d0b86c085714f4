//! Whether a script kept the contract with what it returned.

use bytes::Bytes;

use super::bindings;
use super::bindings::sluicegate::mapper::types;
use super::limits::Limits;
use super::state::{BeforeImage, Written};
use super::text::one_line;

/// What a script made of one batch, checked: every message of the batch is in
/// at least one delivery, rejected or filtered, and in one of the three only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// What to transmit, in the script's order.
    pub deliveries: Vec<MappedDelivery>,
    /// Position in the batch and reason of each message that cannot be mapped.
    pub rejections: Vec<(u32, String)>,
    /// Positions in the batch of messages that the script leaves out.
    pub filtered: Vec<u32>,
    /// The values that the state had, before this call, under the keys that
    /// this call touched.
    pub before: BeforeImage,
    /// What it wrote to the state; nothing for an isolated mapping.
    pub written: Written,
}

/// One thing to transmit, as the script made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedDelivery {
    /// Positions in the batch of the messages that it carries; not empty, none
    /// twice.
    pub messages: Vec<u32>,
    /// MQTT topic, or HTTP path and query; none: the stream's own.
    pub target: Option<String>,
    /// HTTP headers, MQTT 5 user properties, or what the destination consumes.
    pub headers: Vec<(String, String)>,
    /// The bytes to transmit.
    pub body: Bytes,
}

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
/// point it broke the contract. `before` and `written` of the result are empty.
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
        written: Written::default(),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn raw(deliveries: &[&[u32]], rejections: &[u32], filtered: &[u32]) -> bindings::Mapping {
        let delivery = |messages: &&[u32]| types::Delivery {
            messages: messages.to_vec(),
            target: Some("t".into()),
            headers: vec![("name".into(), "value".into())],
            body: b"body".to_vec(),
        };
        bindings::Mapping {
            deliveries: deliveries.iter().map(delivery).collect(),
            rejections: rejections
                .iter()
                .map(|&message| types::Rejection { message, reason: format!("reason {message}\n") })
                .collect(),
            filtered: filtered.to_vec(),
        }
    }

    /// Deliveries, rejections, filtered, and what is said of them.
    type Breach = (&'static [&'static [u32]], &'static [u32], &'static [u32], &'static str);

    #[test]
    fn each_breach_is_named() {
        let cases: [Breach; 10] = [
            (&[&[]], &[0], &[1], "delivery 0 carries no message"),
            (&[&[0, 1], &[1, 0, 1]], &[], &[], "delivery 1 carries message 1 twice"),
            (&[&[2]], &[], &[], "message 2 in a delivery, but the batch has 2"),
            (&[&[0]], &[u32::MAX], &[], "message 4294967295 rejected, but the batch has 2"),
            (&[&[0]], &[], &[7], "message 7 filtered, but the batch has 2"),
            (&[&[0, 1]], &[1], &[], "message 1 in a delivery and rejected"),
            (&[&[0, 1]], &[], &[0], "message 0 in a delivery and filtered"),
            (&[&[1]], &[0, 0], &[], "message 0 rejected twice"),
            (&[&[1]], &[0], &[0], "message 0 rejected and filtered"),
            (&[&[1]], &[], &[], "message 0 of 2 is in no delivery, not rejected and not filtered"),
        ];
        for (deliveries, rejections, filtered, text) in cases {
            let outcome = check(raw(deliveries, rejections, filtered), 2, &Limits::default());
            assert_eq!(outcome.unwrap_err(), text);
        }
    }

    #[test]
    fn numbers_and_sizes_are_bounded() {
        let limits = Limits { deliveries_per_message: 1, output_bytes: 2_048, ..Limits::default() };
        let many = vec![&[0u32][..]; 65];
        assert_eq!(check(raw(&many, &[], &[]), 1, &limits).unwrap().deliveries.len(), 65);
        let many = vec![&[0u32][..]; 66];
        assert_eq!(
            check(raw(&many, &[], &[]), 1, &limits).unwrap_err(),
            "66 deliveries for 1 messages; at most 65 are allowed"
        );
        let mut large = raw(&[&[0]], &[], &[]);
        large.deliveries[0].headers.push(("h".into(), "v".repeat(2_048)));
        assert_eq!(
            check(large, 1, &limits).unwrap_err(),
            "3 KiB returned in one call; at most 2 KiB are allowed"
        );
        let mut long = raw(&[], &[0], &[]);
        long.rejections[0].reason = "r".repeat(2_000);
        assert!(check(long, 1, &limits).unwrap().rejections[0].1.len() < 1_030);
    }

    fn positions() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(0u32..6, 0..4)
    }

    proptest! {
        /// Accepted exactly when every message has one kind of fate, and then
        /// nothing is changed on the way.
        #[test]
        fn accepts_what_the_contract_allows_and_nothing_else(
            messages in 0usize..6,
            deliveries in prop::collection::vec(positions(), 0..4),
            rejections in positions(),
            filtered in positions(),
        ) {
            let lists: Vec<&[u32]> = deliveries.iter().map(Vec::as_slice).collect();
            let times = |list: &[u32], m: u32| list.iter().filter(|x| **x == m).count();
            let in_range = |list: &[u32]| list.iter().all(|m| (*m as usize) < messages);
            let lists_are_sound = deliveries.iter().all(|d| {
                !d.is_empty() && in_range(d) && d.iter().all(|m| times(d, *m) == 1)
            });
            let all_have_one_fate = (0..messages as u32).all(|m| {
                let delivered = usize::from(deliveries.iter().any(|d| d.contains(&m)));
                delivered + times(&rejections, m) + times(&filtered, m) == 1
            });
            let expected = lists_are_sound && in_range(&rejections) && in_range(&filtered) && all_have_one_fate;

            let outcome = check(raw(&lists, &rejections, &filtered), messages, &Limits::default());
            prop_assert_eq!(outcome.is_ok(), expected, "{:?}", outcome);
            if let Ok(mapping) = outcome {
                let carried: Vec<_> = mapping.deliveries.iter().map(|d| d.messages.clone()).collect();
                prop_assert_eq!(carried, deliveries);
                prop_assert!(mapping.deliveries.iter().all(|d| d.body == "body"
                    && d.target.as_deref() == Some("t")
                    && d.headers == [("name".to_owned(), "value".to_owned())]));
                let reasons: Vec<_> = rejections.iter().map(|m| (*m, format!("reason {m}\\n"))).collect();
                prop_assert_eq!(mapping.rejections, reasons);
                prop_assert_eq!(mapping.filtered, filtered);
                prop_assert!(mapping.before.is_empty());
            }
        }
    }
}
