//! What an author implements, and the loop round it.

use serde::de::DeserializeOwned;

use crate::filter::Filter;
use crate::{Delivery, Mapping, Message, RawMessage, Reject, Rejection, Result, settings};

/// A script that maps each message for itself. The type is the script's
/// settings, read from the stream's `[script.settings]`; keys that it has no
/// field for are refused.
pub trait Script: DeserializeOwned + 'static {
    /// Checks what the types of the settings cannot say. The error should name
    /// the key, its value and what was expected.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Maps one message. An error rejects it: it becomes a dead letter.
    fn map(&self, message: &Message<'_>) -> Result<Mapped>;
}

/// A script that maps a batch as a whole, where grouping is the point.
/// Everything that implements [`Script`] is one.
pub trait BatchScript: DeserializeOwned + 'static {
    /// As [`Script::check`].
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Maps the messages of a batch that could be read and that pass the
    /// filter. Each must end in `output`: delivered, rejected or filtered.
    fn map_batch(&self, messages: &[Message<'_>], output: &mut Output);

    /// Reads, filters and maps. Not for authors.
    #[doc(hidden)]
    fn run(&self, batch: &[RawMessage], filter: &Filter, output: &mut Output) {
        let mut messages = Vec::with_capacity(batch.len());
        for (index, raw) in (0..).zip(batch) {
            messages.extend(output.admit(Message::parse(index, raw), index, filter));
        }
        self.map_batch(&messages, output);
    }
}

/// What became of one message.
#[derive(Debug)]
pub enum Mapped {
    /// It is carried by one delivery: the usual case.
    One(Delivery),
    /// It is carried by several; not empty.
    Many(Vec<Delivery>),
    /// It is not to be transmitted.
    Filtered,
}

/// What became of a batch, while it is being mapped.
#[derive(Debug)]
pub struct Output {
    mapping: Mapping,
}

/// A configured script: what the gateway holds one of in each lane.
#[derive(Debug)]
pub struct Instance<S> {
    filter: Filter,
    script: S,
}

impl From<Delivery> for Mapped {
    fn from(delivery: Delivery) -> Self {
        Self::One(delivery)
    }
}

impl From<Vec<Delivery>> for Mapped {
    fn from(deliveries: Vec<Delivery>) -> Self {
        Self::Many(deliveries)
    }
}

/// In characters.
const LONGEST_REASON: usize = 500;

// impl Output

impl Output {
    /// Adds a delivery; the gateway transmits them in this order.
    pub fn deliver(&mut self, delivery: Delivery) {
        self.mapping.deliveries.push(delivery);
    }

    /// Rejects a message: it becomes a dead letter with this reason.
    pub fn reject(&mut self, message: &Message<'_>, reason: impl Into<Reject>) {
        self.reject_index(message.index(), &reason.into());
    }

    /// Says that a message is not to be transmitted.
    pub fn filter(&mut self, message: &Message<'_>) {
        self.mapping.filtered.push(message.index());
    }

    /// The message, if it could be read and is to be mapped.
    fn admit<'a>(&mut self, parsed: Result<Message<'a>>, index: u32, filter: &Filter) -> Option<Message<'a>> {
        match parsed {
            Ok(message) if filter.passes(&message) => return Some(message),
            Ok(message) => self.filter(&message),
            Err(reason) => self.reject_index(index, &reason),
        }
        None
    }

    fn settle(&mut self, message: &Message<'_>, mapped: Result<Mapped>) {
        match mapped {
            Ok(Mapped::One(delivery)) => self.deliver(delivery),
            Ok(Mapped::Many(deliveries)) => self.mapping.deliveries.extend(deliveries),
            Ok(Mapped::Filtered) => self.filter(message),
            Err(reason) => self.reject(message, reason),
        }
    }

    fn reject_index(&mut self, message: u32, reason: &Reject) {
        // A reason quotes what the message says, which may be long.
        let reason = reason.reason();
        let reason = match reason.char_indices().nth(LONGEST_REASON) {
            Some((cut, _)) => format!("{}...", reason.get(..cut).unwrap_or_default()),
            None => reason.to_owned(),
        };
        self.mapping.rejections.push(Rejection { message, reason });
    }
}

// impl Script

impl<S: Script> BatchScript for S {
    fn check(&self) -> Result<(), String> {
        Script::check(self)
    }

    fn map_batch(&self, messages: &[Message<'_>], output: &mut Output) {
        for message in messages {
            output.settle(message, self.map(message));
        }
    }

    /// One message after the other, with one list of fields for all: what is
    /// mapped is still in the processor's cache.
    fn run(&self, batch: &[RawMessage], filter: &Filter, output: &mut Output) {
        let mut fields = Vec::with_capacity(32);
        for (index, raw) in (0..).zip(batch) {
            if let Some(message) = output.admit(Message::parse_into(fields, index, raw), index, filter) {
                output.settle(&message, self.map(&message));
                fields = message.into_fields();
            } else {
                fields = Vec::with_capacity(32);
            }
        }
    }
}

// impl Instance

impl<S: BatchScript> Instance<S> {
    /// Reads the settings: one JSON object.
    pub fn configure(settings: &str) -> Result<Self, String> {
        let (filter, script) = settings::read::<S>(settings)?;
        script.check()?;
        Ok(Self { filter, script })
    }

    /// The author's struct.
    pub fn script(&self) -> &S {
        &self.script
    }

    /// Maps a batch: takes the payloads apart, filters, maps. What cannot be
    /// read is rejected.
    pub fn transform(&self, batch: &[RawMessage]) -> Mapping {
        let mut output = Output {
            mapping: Mapping {
                deliveries: Vec::with_capacity(batch.len()),
                rejections: Vec::new(),
                filtered: Vec::new(),
            },
        };
        self.script.run(batch, &self.filter, &mut output);
        let mut mapping = output.mapping;
        mapping.rejections.sort_by_key(|rejection| rejection.message);
        mapping.filtered.sort_unstable();
        mapping
    }
}

/// Makes a type that implements [`Script`] or [`BatchScript`] the script that
/// this crate is. Once in a crate, which must be a `cdylib`; natively it does
/// nothing, so that the crate can be tested as any other.
#[macro_export]
macro_rules! export {
    ($script:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Component;

            ::std::thread_local! {
                static INSTANCE: ::std::cell::OnceCell<$crate::Instance<$script>> =
                    const { ::std::cell::OnceCell::new() };
            }

            impl $crate::bindings::Guest for Component {
                fn configure(
                    settings: ::std::string::String,
                ) -> ::std::result::Result<(), ::std::string::String> {
                    $crate::log::panics();
                    let instance = $crate::Instance::configure(&settings)?;
                    INSTANCE.with(|it| it.set(instance)).map_err(|_| "configured twice".into())
                }

                fn transform(
                    batch: ::std::vec::Vec<$crate::RawMessage>,
                ) -> ::std::result::Result<$crate::Mapping, ::std::string::String> {
                    INSTANCE.with(|it| match it.get() {
                        Some(instance) => Ok(instance.transform(&batch)),
                        None => Err("transform was called before configure".into()),
                    })
                }
            }

    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
    };
}

#[cfg(test)]
mod tests;
