//! `sluicegate map`: what a script makes of messages, without bus and
//! destination. Messages come on stdin, one payload a line; what becomes of
//! them goes to stdout, one JSON line each, and nothing else does.

mod print;

use std::fmt;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use clap::{ArgGroup, Args};
use serde_json::Value;

use super::{ConfigArg, wiring};
use crate::bus::Message;
use crate::config::{Config, ConfigErrors, DestinationSettings, StreamEntry};
use crate::script::{
    Engine, EngineError, LoadError, LogLevel, Mapper, Mapping, Recipe, Script, ScriptFault, State, adapter,
};

/// Map messages from stdin (one payload a line) and print what becomes of them
#[derive(Args, Clone, Debug)]
#[command(
    group(ArgGroup::new("source").required(true).args(["stream", "script", "adapter"])),
    after_long_help = "\
Prints one JSON line each: for a delivery
  {\"messages\":[0],\"target\":...,\"headers\":{...},\"body\":\"text\"}
with \"body_base64\" where the body is no text and \"packet\", the decoded packet, for Wialon; then
  {\"message\":3,\"rejected\":\"reason\"}  and  {\"message\":4,\"filtered\":true}
Messages are numbered from 0 by their lines.

Examples:
  sluicegate map --stream fleet-to-aws < messages.jsonl
  sluicegate map --adapter http-json --settings '{\"notation\":\"nested\"}' < messages.jsonl
  sluicegate map --script mine.wasm --settings @settings.json --strict < messages.jsonl

Exit status:
  0  everything was mapped
  1  the script failed on a message or could not be loaded, or with --strict a message was rejected
  2  the command line is wrong"
)]
pub struct MapArgs {
    /// The stream whose script, settings and limits to use
    #[arg(long, value_name = "NAME", conflicts_with = "settings")]
    pub stream: Option<String>,
    /// The WebAssembly file to run
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// The official adapter to run
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// `[script.settings]` as a JSON object, or @FILE with one [default: {}]
    #[arg(long, value_name = "JSON|@FILE")]
    pub settings: Option<String>,
    /// The topic that the messages came on
    #[arg(long, value_name = "TOPIC", default_value = TOPIC)]
    pub topic: String,
    /// When the first message was received, in milliseconds since 1970; each
    /// later one came a second later
    #[arg(long, value_name = "MS", default_value_t = RECEIVED_AT)]
    pub received_at: u64,
    /// Messages that the script gets at a time
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch: u16,
    /// Exit with status 1 if a message is rejected
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// The topic of messages that have none: as flespi's channels publish.
pub const TOPIC: &str = "flespi/message/gw/devices/1";

/// The time of receipt of the first message: fixed, so that the same input
/// prints the same output.
pub const RECEIVED_AT: u64 = 1_700_000_000_000;

/// Milliseconds between two messages.
pub const INTERVAL: u64 = 1_000;

/// Maps batches and prints what becomes of them.
pub struct Session<'m, W> {
    mapper: &'m mut Mapper,
    packets: bool,
    out: W,
    /// Number of the next message.
    next: u64,
}

/// What has become of the messages of a batch, as far as it decides the exit
/// status.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Messages that the script rejected.
    pub rejected: usize,
    /// Messages that the script failed on even alone; by their numbers.
    pub failed: Vec<(u64, ScriptFault)>,
}

/// Why nothing (more) is mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(ConfigErrors),
    /// `--stream` names none.
    #[error("--stream {name}: there is no such stream in {}; there are: {streams}", folder.display())]
    Stream {
        /// What was asked for.
        name: String,
        /// Where streams are.
        folder: PathBuf,
        /// Their names.
        streams: String,
    },
    /// The script of a stream cannot be read.
    #[error("stream {name}: {problem}")]
    Unreadable {
        /// Which stream.
        name: String,
        /// Why.
        problem: String,
    },
    /// `--adapter` names none.
    #[error("--adapter {0}: there is no such official adapter; there are {names}", names = adapter::names())]
    Adapter(String),
    /// `--settings` is no JSON object.
    #[error("{place}: {problem}; expected one JSON object, for example {{\"fields\":[\"ident\"]}}")]
    Settings {
        /// `--settings` or the file.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// The script cannot be used.
    #[error("{name}: {error}")]
    Load {
        /// Which one.
        name: String,
        /// Why.
        error: LoadError,
    },
    /// The engine cannot start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The script cannot go on, whatever the message.
    #[error("message {first} and later: {fault}")]
    Script {
        /// The first message that was not mapped.
        first: u64,
        /// Why.
        fault: ScriptFault,
    },
    /// stdin.
    #[error("stdin: {0}")]
    Input(io::Error),
    /// stdout.
    #[error("stdout: {0}")]
    Output(io::Error),
}

/// What to run.
struct Source {
    recipe: Recipe,
    /// Print the decoded packets of the Wialon protocol.
    packets: bool,
}

// ----- the command -----

/// Runs the command from stdin to stdout; errors go to stderr.
pub async fn run(args: &MapArgs) -> ExitCode {
    match map(args, io::stdin().lock(), io::stdout().lock()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever reads us has seen enough (`| head`).
        Err(MapError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well in the sense of the exit status.
async fn map(args: &MapArgs, mut input: impl BufRead, out: impl Write) -> Result<bool, MapError> {
    let source = source(args)?;
    let engine = Engine::new(2)?;
    let script = load(&engine, source.recipe).await?;
    let mut mapper = script.lane(0, &State::new(), Arc::new(print_log));
    let mut session = Session::new(&mut mapper, source.packets, out);
    let mut well = true;
    loop {
        // Nothing else waits on this thread: it may block in the read.
        let batch = read_batch(&mut input, args, session.next()).map_err(MapError::Input)?;
        if batch.is_empty() {
            return Ok(well);
        }
        let outcome = session.batch(&batch).await?;
        for (message, fault) in &outcome.failed {
            complain(format_args!("message {message}: {fault}"));
        }
        well &= outcome.failed.is_empty() && !(args.strict && outcome.rejected > 0);
    }
}

/// Loads a script; the error names it.
pub async fn load(engine: &Engine, recipe: Recipe) -> Result<Script, MapError> {
    let name = recipe.name.clone();
    Script::load(engine, recipe).await.map_err(|error| MapError::Load { name, error })
}

fn source(args: &MapArgs) -> Result<Source, MapError> {
    if let Some(name) = &args.stream {
        let config = Config::load(args.config.config.as_deref()).map_err(MapError::Config)?;
        return source_of_stream(config, name);
    }
    let settings =
        args.settings.as_deref().map_or_else(|| Ok(Value::Object(Default::default())), settings)?;
    if let Some(name) = &args.adapter {
        let adapter = adapter::official(name).ok_or_else(|| MapError::Adapter(name.clone()))?;
        let packets = adapter.manifest.destinations.iter().any(|destination| destination == "wialon");
        let recipe = Recipe { settings, ..Recipe::new(name, adapter.wasm) };
        return Ok(Source { recipe, packets });
    }
    // One of the three is there: clap has seen to that.
    let path = args.script.as_deref().unwrap_or(Path::new(""));
    let wasm = std::fs::read(path).map_err(|error| MapError::File { path: path.to_owned(), error })?;
    let recipe = Recipe { settings, ..Recipe::new(path.display().to_string(), wasm) };
    Ok(Source { recipe, packets: false })
}

fn source_of_stream(config: Config, name: &str) -> Result<Source, MapError> {
    let folder = config.stream_folder();
    let known: Vec<String> = config.streams.iter().map(|entry| name_of(entry).to_owned()).collect();
    let entry = config.streams.into_iter().find(|entry| name_of(entry) == name);
    let settings = match entry {
        Some(StreamEntry::Ready(settings)) => settings,
        Some(StreamEntry::Unusable { errors, .. }) => return Err(MapError::Config(ConfigErrors(errors))),
        None => {
            let streams = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(MapError::Stream { name: name.to_owned(), folder, streams });
        }
    };
    let script = &settings.script;
    let wasm = wiring::read_script(&script.source)
        .map_err(|problem| MapError::Unreadable { name: name.to_owned(), problem })?;
    Ok(Source {
        recipe: Recipe {
            settings: script.settings.clone(),
            limits: wiring::limits(script),
            ..Recipe::new(format!("{} (stream {name})", wiring::script_name(&script.source)), wasm)
        },
        packets: matches!(settings.destination, DestinationSettings::Wialon(_)),
    })
}

fn name_of(entry: &StreamEntry) -> &str {
    match entry {
        StreamEntry::Ready(settings) => &settings.name,
        StreamEntry::Unusable { name, .. } => name,
    }
}

fn settings(text: &str) -> Result<Value, MapError> {
    let (place, text) = match text.strip_prefix('@') {
        None => ("--settings".to_owned(), text.to_owned()),
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| MapError::File { path: path.into(), error })?;
            (path.to_owned(), text)
        }
    };
    match serde_json::from_str(&text) {
        Ok(settings @ Value::Object(_)) => Ok(settings),
        Ok(_) => Err(MapError::Settings { place, problem: "it is JSON, but no object".into() }),
        Err(error) => Err(MapError::Settings { place, problem: error.to_string() }),
    }
}

/// The next messages; none at the end of the input. A line's bytes are the
/// payload, whatever they are.
fn read_batch(input: &mut impl BufRead, args: &MapArgs, first: u64) -> io::Result<Vec<Message>> {
    let topic: Arc<str> = args.topic.as_str().into();
    let mut batch = Vec::new();
    for number in first..first + u64::from(args.batch) {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
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

fn print_log(level: LogLevel, text: &str) {
    complain(format_args!("script {level:?}: {text}"));
}

fn complain(what: impl fmt::Display) {
    // If even stderr is gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{what}");
}

// ----- impl Session -----

impl<'m, W: Write> Session<'m, W> {
    /// Begins with message 0. `packets`: print the decoded packets of the
    /// Wialon protocol with each delivery.
    pub fn new(mapper: &'m mut Mapper, packets: bool, out: W) -> Self {
        Self { mapper, packets, out, next: 0 }
    }

    /// Number of the next message.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Where it printed to.
    pub fn into_output(self) -> W {
        self.out
    }

    /// Maps a batch, as a lane does: after a fault one message at a time. A
    /// message that fails alone is printed as rejected, for that is its fate.
    pub async fn batch(&mut self, batch: &[Message]) -> Result<Outcome, MapError> {
        let mut outcome = Outcome::default();
        match self.mapper.transform(batch).await {
            Ok(mapping) => {
                outcome.rejected = mapping.rejections.len();
                self.print(&mapping, batch.len())?;
            }
            Err(fault) if fault.is_batch_wide() => {
                return Err(MapError::Script { first: self.next, fault });
            }
            Err(_) => {
                for message in batch {
                    self.alone(message, &mut outcome).await?;
                }
            }
        }
        self.out.flush().map_err(MapError::Output)?;
        Ok(outcome)
    }

    async fn alone(&mut self, message: &Message, outcome: &mut Outcome) -> Result<(), MapError> {
        match self.mapper.transform(std::slice::from_ref(message)).await {
            Ok(mapping) => {
                outcome.rejected += mapping.rejections.len();
                self.print(&mapping, 1)
            }
            Err(fault) if fault.is_batch_wide() => Err(MapError::Script { first: self.next, fault }),
            Err(fault) => {
                print::rejection(&mut self.out, self.next, &fault.to_string()).map_err(MapError::Output)?;
                outcome.failed.push((self.next, fault));
                self.next += 1;
                Ok(())
            }
        }
    }

    fn print(&mut self, mapping: &Mapping, messages: usize) -> Result<(), MapError> {
        print::mapping(&mut self.out, mapping, self.next, self.packets).map_err(MapError::Output)?;
        self.next += messages as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
