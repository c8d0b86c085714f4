//! What an operator does with streams and dead letters. [`Operations`] does it
//! on a journal: the admin listener of a running gateway and, where none runs,
//! the commands themselves call it. [`Target`] is the one or the other.

pub mod convert;
pub mod script;
mod target;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use admin_api::answer::{
    DetachedStream, Forgotten, JournalLine, Letter, LetterFilter, Letters, MAX_BYTES, MAX_LETTERS, Paused,
    RewindRequest, Rewound, StreamLine, Taken, USUAL_LETTERS,
};
use admin_api::moment;
use journal::{Counters, DeadLetterFilter, DeadLetterId, Journal, JournalError, Rewind, StreamIndex};
use message::{Message, Takes, unix_millis};
use settings::{RATE, Rate, StreamSettings};
use settings_reader::ConfigError;
use settings_reader::section::nearest;
use stream::reload::versions::Versions;
use stream::{ReloadHandle, StreamStatus};

use crate::wiring;

pub use target::{NO_BODY, Target, TargetError, running};

/// The journal, and the streams that have a file.
pub struct Operations {
    journal: Journal,
    streams: RwLock<Arc<[Operated]>>,
    /// The accepted scripts, where they are kept.
    versions: Option<Versions>,
}

/// A stream that has a file.
pub struct Operated {
    name: String,
    /// Or why its file cannot be used.
    usable: Result<Arc<Usable>, String>,
}

struct Usable {
    index: StreamIndex,
    takes: Takes,
    /// Type and address, for a person.
    destination: String,
    running: Option<Running>,
}

/// A stream that runs.
pub struct Running {
    /// Its script remembers what a rewind lets it forget.
    pub status: Arc<StreamStatus>,
    /// To whom orders about its script go.
    pub orders: ReloadHandle,
}

/// Why something is not done; for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperateError {
    /// The request makes no sense.
    #[error("{0}")]
    Wrong(String),
    /// The stream or the dead letter does not exist.
    #[error("{0}")]
    Unknown(String),
    /// It cannot be done as things are.
    #[error("{0}")]
    NotNow(String),
}

impl From<JournalError> for OperateError {
    fn from(error: JournalError) -> Self {
        Self::NotNow(error.to_string())
    }
}

// === impl Operated ===

impl Operated {
    /// A stream with this number in the journal, and the stream itself where it
    /// runs.
    pub fn new(index: StreamIndex, settings: &StreamSettings, running: Option<Running>) -> Self {
        let destination = &settings.destination;
        let usable = Usable {
            index,
            takes: wiring::takes(settings),
            destination: format!("{} {}", destination.type_name(), destination.address()),
            running,
        };
        Self { name: settings.name.clone(), usable: Ok(Arc::new(usable)) }
    }

    /// A stream whose file cannot be used.
    pub fn unusable(name: &str, errors: &[ConfigError]) -> Self {
        let reasons: Vec<String> = errors.iter().map(|error| error.summary()).collect();
        Self { name: name.to_owned(), usable: Err(reasons.join("; ")) }
    }

    fn index(&self) -> Option<StreamIndex> {
        self.usable.as_ref().ok().map(|usable| usable.index)
    }
}

// === impl Operations ===

impl Operations {
    /// Operations on this journal.
    pub fn new(journal: Journal, streams: Vec<Operated>, versions: Option<Versions>) -> Self {
        Self { journal, streams: RwLock::new(streams.into()), versions }
    }

    /// From now on these streams have a file.
    pub fn set_streams(&self, streams: Vec<Operated>) {
        *self.streams.write().unwrap_or_else(PoisonError::into_inner) = streams.into();
    }

    fn streams_now(&self) -> Arc<[Operated]> {
        self.streams.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the journal. Nothing can be done afterwards.
    pub async fn close(self) {
        self.journal.close().await;
    }

    /// The streams as far as the journal knows them.
    pub fn streams(&self) -> Vec<StreamLine> {
        let now = unix_millis();
        let line = |stream: &Operated| {
            let counters = stream
                .index()
                .or_else(|| self.journal.stream(&stream.name))
                .map_or_else(Counters::default, |index| self.journal.counters(index));
            let mut line = convert::stream_line(&stream.name, &counters, now);
            line.paused = self.is_paused(stream.index());
            line.reason = stream.usable.as_ref().err().cloned();
            line
        };
        self.streams_now().iter().map(line).collect()
    }

    /// Whether an operator has paused the stream.
    pub fn is_paused(&self, stream: Option<StreamIndex>) -> bool {
        stream.is_some_and(|index| *self.journal.paused(index).borrow())
    }

    /// The journal as a whole.
    pub fn journal(&self) -> JournalLine {
        let holding = self.journal.holding();
        let detached = self.journal.detached().into_iter();
        JournalLine {
            messages: holding.messages,
            bytes: holding.bytes.used,
            max_bytes: holding.bytes.limit,
            dead_letter_bytes: holding.dead_letters.used,
            max_dead_letter_bytes: holding.dead_letters.limit,
            alarm: convert::alarm(&holding),
            full: holding.full,
            holder: holding.holder.filter(|_| holding.full).map(|index| self.name(index)),
            broken: holding.broken,
            detached: detached.map(|(name, since)| DetachedStream { name, since }).collect(),
        }
    }

    /// Lets a stream's messages wait from now on, or no longer.
    pub async fn pause(&self, stream: &str, paused: bool) -> Result<Paused, OperateError> {
        let index = self.usable(stream)?.index;
        self.journal.pause(index, paused).await?;
        Ok(Paused { stream: stream.to_owned(), paused })
    }

    /// Lets a stream read again what it has settled.
    pub async fn rewind(&self, stream: &str, request: RewindRequest) -> Result<Rewound, OperateError> {
        let usable = self.usable(stream)?;
        let now = unix_millis();
        let from = time("to", &request.to, now)?;
        let until = request.until.map_or(Ok(now), |until| time("until", &until, now))?;
        if from >= until {
            return Err(OperateError::Wrong(format!(
                "`to` is {}, which is not before {}, the time until which messages are read again",
                moment::show(from),
                moment::show(until)
            )));
        }
        let rate = request.rate.as_deref().map(|rate| {
            let wrong =
                || OperateError::Wrong(format!("`rate` is `{}`; expected {RATE}", rate.escape_debug()));
            Rate::parse(rate).ok_or_else(wrong)
        });
        let keys: Option<HashSet<String>> = request.keys.map(|keys| keys.into_iter().collect());
        if keys.as_ref().is_some_and(HashSet::is_empty) {
            return Err(OperateError::Wrong(
                "`keys` is empty; expected keys, or no `keys` for all".to_owned(),
            ));
        }
        let rewind = Rewind {
            stream: usable.index,
            from,
            until,
            rate: rate.transpose()?.map(Rate::per_second),
            keep_state: request.keep_state,
            dry_run: request.dry_run,
        };
        let (journal, operated) = (self.journal.clone(), usable.clone());
        let found = to_the_end(async move {
            let wanted = wanted(operated.takes.clone(), keys);
            match &operated.running {
                Some(running) => running.status.rewind(&journal, rewind, wanted).await,
                None => journal.begin_rewind(rewind).await?.mark(wanted).await,
            }
        });
        let found = found.await?;
        Ok(Rewound {
            stream: stream.to_owned(),
            destination: usable.destination.clone(),
            dry_run: request.dry_run,
            from,
            until,
            messages: found.messages,
            bytes: found.bytes,
            oldest: found.oldest,
            newest: found.newest,
            kept_since: found.kept_since,
        })
    }

    /// Forgets a stream that has no file any more.
    pub async fn forget(&self, stream: &str) -> Result<Forgotten, OperateError> {
        if self.streams_now().iter().any(|s| s.name == stream) {
            return Err(OperateError::NotNow(format!(
                "the stream `{stream}` has a file; only a stream whose file is gone can be forgotten: remove the \
                 file and say `sluicegate apply`"
            )));
        }
        let known = self.journal.detached();
        if !known.iter().any(|(name, _)| name == stream) {
            let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
            return Err(unknown("stream without a file", stream, &names));
        }
        let (journal, name) = (self.journal.clone(), stream.to_owned());
        if to_the_end(async move { journal.forget(&name).await }).await? {
            wiring::forget_scripts(self.versions.as_ref(), &self.journal).await;
            Ok(Forgotten { forgotten: stream.to_owned() })
        } else {
            Err(OperateError::Unknown(format!("the stream `{stream}` was forgotten already")))
        }
    }

    /// The dead letters that the filter lets through, at most its limit.
    pub async fn dead_letters(&self, filter: &LetterFilter) -> Result<Letters, OperateError> {
        let limit = filter.limit.unwrap_or(USUAL_LETTERS);
        if limit == 0 || limit > MAX_LETTERS {
            return Err(OperateError::Wrong(format!("`limit` is {limit}; expected 1 to {MAX_LETTERS}")));
        }
        // One more tells whether there are more.
        let filter = DeadLetterFilter { limit: Some(limit + 1), ..self.filter(filter)? };
        let found = self.journal.dead_letters(filter).await?;
        let mut answer = Letters { dead_letters: Vec::new(), more: found.len() > limit };
        let mut bytes = 0;
        for (id, stream, letter) in found.into_iter().take(limit) {
            if bytes >= MAX_BYTES {
                answer.more = true;
                break;
            }
            bytes += letter.message.size() + letter.delivery.as_ref().map_or(0, |d| d.body.len());
            answer.dead_letters.push(convert::letter(id, self.name(stream), &letter));
        }
        Ok(answer)
    }

    /// One dead letter.
    pub async fn dead_letter(&self, id: u64) -> Result<Letter, OperateError> {
        let filter = DeadLetterFilter { ids: Some(vec![DeadLetterId(id)]), ..DeadLetterFilter::default() };
        let found = self.journal.dead_letters(filter).await?.into_iter().next();
        let (id, stream, letter) = found
            .ok_or_else(|| OperateError::Unknown(format!("dead letter {id} does not exist (any more)")))?;
        Ok(convert::letter(id, self.name(stream), &letter))
    }

    /// Lets the streams of these dead letters read their messages again.
    pub async fn replay(&self, filter: &LetterFilter, as_is: bool) -> Result<Taken, OperateError> {
        if let Some(name) = &filter.stream {
            self.usable(name)?;
        }
        let (journal, filter) = (self.journal.clone(), self.filter(filter)?);
        let dead_letters = to_the_end(async move { journal.replay(filter, as_is).await }).await?;
        Ok(Taken { dead_letters })
    }

    /// Forgets these dead letters.
    pub async fn drop_dead_letters(&self, filter: &LetterFilter) -> Result<Taken, OperateError> {
        let (journal, filter) = (self.journal.clone(), self.filter(filter)?);
        let dead_letters = to_the_end(async move { journal.drop_dead_letters(filter).await }).await?;
        Ok(Taken { dead_letters })
    }

    fn filter(&self, filter: &LetterFilter) -> Result<DeadLetterFilter, OperateError> {
        let stream = filter.stream.as_ref().map(|name| self.known(name));
        let since = filter.since.as_ref().map(|since| time("since", since, unix_millis()));
        Ok(DeadLetterFilter {
            stream: stream.transpose()?,
            reason: filter.reason.clone(),
            since: since.transpose()?,
            ids: filter.ids.as_ref().map(|ids| ids.iter().copied().map(DeadLetterId).collect()),
            limit: filter.limit,
        })
    }

    /// A stream that may have dead letters, also one whose file is wrong or
    /// gone.
    fn known(&self, name: &str) -> Result<StreamIndex, OperateError> {
        match self.journal.stream(name).or_else(|| self.journal.detached_stream(name)) {
            Some(index) => Ok(index),
            None => self.usable(name).map(|usable| usable.index),
        }
    }

    fn usable(&self, name: &str) -> Result<Arc<Usable>, OperateError> {
        let streams = self.streams_now();
        let Some(stream) = streams.iter().find(|stream| stream.name == name) else {
            let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
            return Err(unknown("stream", name, &names));
        };
        stream.usable.clone().map_err(|reason| {
            OperateError::NotNow(format!("the file of the stream `{name}` cannot be used: {reason}"))
        })
    }

    /// The name of a stream by its number; the number itself if no stream
    /// has it.
    fn name(&self, index: StreamIndex) -> String {
        let streams = self.streams_now();
        let stream = streams.iter().find(|stream| stream.index() == Some(index));
        let name = stream.map(|stream| stream.name.clone()).or_else(|| self.journal.name(index));
        name.unwrap_or_else(|| format!("#{}", index.0))
    }
}

/// Completes the operation even if the caller goes away meanwhile: what
/// has many steps must not stop between two of them.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, JournalError>> + Send + 'static,
) -> Result<T, JournalError> {
    tokio::spawn(work).await.unwrap_or_else(|failed| Err(JournalError::Interrupted(failed.to_string())))
}

/// Whether a stream wants a message again: one that it takes, of these keys.
fn wanted(takes: Takes, keys: Option<HashSet<String>>) -> impl Fn(&Message) -> bool + Send + Sync + 'static {
    move |message| {
        takes.admits(message)
            && keys.as_ref().is_none_or(|keys| {
                let key = takes.key.extract(&message.topic, &message.payload);
                keys.contains(key.as_ref())
            })
    }
}

fn time(what: &str, text: &str, now: u64) -> Result<u64, OperateError> {
    moment::parse(text, now).ok_or_else(|| {
        let text = text.escape_debug();
        OperateError::Wrong(format!("`{what}` is `{text}`; expected {}", moment::EXPECTED))
    })
}

fn unknown(what: &str, name: &str, names: &[&str]) -> OperateError {
    let rest = match (nearest(name, names), names) {
        (Some(nearest), _) => format!("did you mean `{nearest}`?"),
        (None, []) => "there is none".to_owned(),
        (None, names) => format!("there are {}", names.join(", ")),
    };
    OperateError::Unknown(format!("there is no {what} `{}`; {rest}", name.escape_debug()))
}
