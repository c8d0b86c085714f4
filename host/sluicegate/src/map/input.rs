//! The messages that are mapped: lines of standard input, or what the journal
//! has kept.

use std::io::{self, BufRead};
use std::sync::Arc;

use bytes::Bytes;
use gateway::operate::Target;
use gateway::operate::script::USUAL_MESSAGES;
use message::Message;
use script::cases::INTERVAL;

use super::{MapArgs, MapError};

/// Bytes of standard input that `--watch` keeps.
const MAX_KEPT: usize = 64 << 20;

/// Messages, a batch at a time.
pub(super) enum Input<R> {
    /// Lines, as they come.
    Lines(R),
    /// All of them; so many have been mapped.
    Kept(Vec<Message>, usize),
}

impl<R: BufRead> Input<R> {
    /// Where the command line says that the messages come from.
    pub(super) async fn of(args: &MapArgs, lines: R) -> Result<Self, MapError> {
        if args.last.is_some() || args.key.is_some() {
            return Ok(Self::Kept(journal(args).await?, 0));
        }
        let mut lines = Self::Lines(lines);
        if !args.watch {
            return Ok(lines);
        }
        let (mut kept, mut bytes) = (Vec::new(), 0);
        loop {
            let batch = lines.next_batch(args, kept.len() as u64).map_err(MapError::Input)?;
            if batch.is_empty() {
                return Ok(Self::Kept(kept, 0));
            }
            bytes += batch.iter().map(Message::size).sum::<usize>();
            kept.extend(batch);
            if bytes > MAX_KEPT {
                return Err(MapError::TooMuch(MAX_KEPT >> 20));
            }
        }
    }

    /// From the first one again; lines that have been read are gone.
    pub(super) fn rewind(&mut self) {
        if let Self::Kept(_, mapped) = self {
            *mapped = 0;
        }
    }

    /// The next messages; none at the end. A line's bytes are the payload,
    /// whatever they are; the first of them has the number `first`.
    pub(super) fn next_batch(&mut self, args: &MapArgs, first: u64) -> io::Result<Vec<Message>> {
        let most = usize::from(args.batch);
        match self {
            Self::Lines(lines) => read_lines(lines, args, first),
            Self::Kept(messages, mapped) => {
                let batch: Vec<Message> = messages.iter().skip(*mapped).take(most).cloned().collect();
                *mapped += batch.len();
                Ok(batch)
            }
        }
    }
}

async fn journal(args: &MapArgs) -> Result<Vec<Message>, MapError> {
    let last = args.last.map_or(USUAL_MESSAGES, usize::from);
    let target = Target::find(args.config.config.as_deref()).await?;
    let found = target.messages(args.stream.as_deref(), args.key.clone(), last).await;
    target.close().await;
    let lines = found?.messages.into_iter();
    lines.map(|line| line.message().map_err(|error| MapError::Journal(error.to_string()))).collect()
}

fn read_lines(lines: &mut impl BufRead, args: &MapArgs, first: u64) -> io::Result<Vec<Message>> {
    let topic: Arc<str> = args.topic.as_str().into();
    let mut batch = Vec::new();
    for number in first..first + u64::from(args.batch) {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let received_at = args.received_at.saturating_add(number.saturating_mul(INTERVAL));
        batch.push(Message { topic: topic.clone(), payload: Bytes::from(line), received_at });
    }
    Ok(batch)
}
