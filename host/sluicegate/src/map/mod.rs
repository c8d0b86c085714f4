//! `sluicegate map`: runs a script on messages, without bus and destination.
//! Messages come from stdin, one payload per line, or from the journal
//! ([`input`]). Results go to stdout, one JSON line each, and nothing else does.

mod input;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgGroup, Args};
use destination::KINDS;
use gateway::operate::TargetError;
use gateway::wiring;
use input::Input;
use message::Message;
use script::cases::{RECEIVED_AT, TOPIC};
use script::lines::{self, Decode};
use script::schema::SettingsError;
use script::{
    Columns, Engine, EngineError, Limits, LoadError, LogLevel, Mapper, Mapping, Package, Recipe, Script,
    ScriptFault, State, TableError, TableSettings, Tables,
};
use serde_json::Value;
use settings::{Config, ScriptSource, StreamEntry};
use settings_reader::ConfigErrors;
use watch::Watch;

use crate::config_arg::ConfigArg;

/// Map messages from stdin (one payload per line) or from the journal, and print the results
#[derive(Args, Clone, Debug)]
#[command(
    group(ArgGroup::new("source").required(true).args(["stream", "script", "adapter"])),
    after_long_help = "\
Prints one JSON line per result. For a delivery:
  {\"messages\":[0],\"target\":...,\"headers\":{...},\"body\":\"text\"}
with \"body_base64\" if the body is not text, and for Wialon with the decoded
\"packet\". For other results:
  {\"message\":3,\"rejected\":\"reason\"}  and  {\"message\":4,\"filtered\":true}
Messages are numbered from 0, by line.

--last and --key read messages from the journal instead: those of the stream,
or without --stream those of all streams, with `ident` as the key. --watch maps
the same messages again after each change.

Examples:
  sluicegate map --stream fleet-to-aws < in.jsonl
  sluicegate map --adapter http-json --settings '{\"limit_messages\":9}' < in.jsonl
  sluicegate map --script mine.wasm --settings @mine.json --strict < in.jsonl
  sluicegate map --stream fleet-to-aws --key 861230043907626 --last 5
  sluicegate map --script mine.wasm --last 20 --watch
  sluicegate map --adapter mqtt-json --settings @mine.json --table names=ids.csv

Exit status:
  0  every message was mapped
  1  the script failed on a message or could not be loaded, or rejected a
     message with --strict
  2  invalid command line"
)]
pub struct MapArgs {
    /// The stream whose script, settings, limits and tables to use
    #[arg(long, value_name = "NAME", conflicts_with = "settings")]
    pub stream: Option<String>,
    /// The WebAssembly file to run, or the folder of an adapter
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// The official adapter to run
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// `[script.settings]` as a JSON object, or @FILE with one [default: {}]
    #[arg(long, value_name = "JSON|@FILE")]
    pub settings: Option<String>,
    /// A lookup table, as `[tables.NAME]` of a stream; can be repeated
    #[arg(long = "table", value_name = "NAME=FILE", value_parser = table, conflicts_with = "stream")]
    pub tables: Vec<TableSettings>,
    /// Map the last N messages of the journal [default with --key: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub last: Option<u16>,
    /// Only messages of this key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Map them again whenever the script, its settings or its tables change
    #[arg(long)]
    pub watch: bool,
    /// The topic of the messages
    #[arg(long, value_name = "TOPIC", default_value = TOPIC, conflicts_with_all = ["last", "key"])]
    pub topic: String,
    /// Time of the first message, in milliseconds since 1970; each further
    /// message is one second later
    #[arg(long, value_name = "MS", default_value_t = RECEIVED_AT, conflicts_with_all = ["last", "key"])]
    pub received_at: u64,
    /// Maximum messages per call of the script
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch: u16,
    /// Exit with status 1 if a message is rejected
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// Maps batches and prints what becomes of them.
pub struct Session<'m, W> {
    mapper: &'m mut Mapper,
    decode: Option<Decode>,
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
    #[error("--stream {name}: no such stream in {}; expected one of: {streams}", folder.display())]
    Stream {
        /// What was asked for.
        name: String,
        /// Where streams are.
        folder: PathBuf,
        /// Their names.
        streams: String,
    },
    /// The script cannot be read; the text names it.
    #[error("{0}")]
    Unreadable(String),
    /// `--adapter` names none.
    #[error("--adapter {0}: unknown adapter; expected one of {names}", names = adapters::names())]
    Adapter(String),
    /// `--settings` is no JSON object.
    #[error("{place}: {problem}; expected one JSON object, for example {{\"fields\":[\"ident\"]}}")]
    Settings {
        /// `--settings` or the file.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// The settings are none of the script's.
    #[error("{name}: its settings are wrong: {error}")]
    WrongSettings {
        /// Which script.
        name: String,
        /// What is wrong.
        error: SettingsError,
    },
    /// A table cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// `--table` names one more than once.
    #[error("--table {0}: the name is used twice")]
    TableTwice(String),
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
    /// The script cannot continue, whatever the message.
    #[error("message {first} and later: {fault}")]
    Script {
        /// The first message that was not mapped.
        first: u64,
        /// Why.
        fault: ScriptFault,
    },
    /// Neither a running gateway nor its journal.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A message of the journal came garbled.
    #[error("a message of the journal: {0}")]
    Journal(String),
    /// What `--watch` has to look at is in the binary.
    #[error("--watch: nothing to watch: neither the adapter nor its settings are files")]
    NothingToWatch,
    /// stdin.
    #[error("stdin: {0}")]
    Input(io::Error),
    /// `--watch` keeps all of it.
    #[error("stdin: more than {0} MiB; --watch keeps all messages in memory")]
    TooMuch(usize),
    /// stdout.
    #[error("stdout: {0}")]
    Output(io::Error),
}

/// What to run.
struct Source {
    recipe: Recipe,
    /// Prints the decoded packets of the Wialon protocol.
    decode: Option<Decode>,
}

// ----- the command -----

/// Runs the command from stdin to stdout; errors go to stderr.
pub async fn run(args: &MapArgs) -> ExitCode {
    match map(args, io::stdin().lock(), io::stdout().lock()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader closed the pipe (`| head`).
        Err(MapError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well in the sense of the exit status.
async fn map(args: &MapArgs, lines: impl BufRead, mut out: impl Write) -> Result<bool, MapError> {
    let engine = Engine::new(2)?;
    let mut input = Input::of(args, lines).await?;
    if !args.watch {
        return pass(args, &engine, &mut input, &mut out).await;
    }
    let paths = paths(args)?;
    let mut changes = Watch::new().paths(paths.clone());
    changes.ready().await;
    loop {
        match pass(args, &engine, &mut input, &mut out).await {
            Ok(_) => {}
            Err(error @ MapError::Output(_)) => return Err(error),
            // The next change may mend it.
            Err(error) => complain(error),
        }
        let waits: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        complain(format_args!("--- mapped again when {} changes; Ctrl-C ends", waits.join(" or ")));
        changes.next().await;
        input.rewind();
    }
}

/// Maps all of the input once.
async fn pass<R: BufRead>(
    args: &MapArgs,
    engine: &Engine,
    input: &mut Input<R>,
    out: &mut impl Write,
) -> Result<bool, MapError> {
    let source = source(args)?;
    let script = load(engine, source.recipe).await?;
    let mut mapper = script.lane(0, &State::new(), Arc::new(print_log));
    let mut session = Session::new(&mut mapper, source.decode, out);
    let mut well = true;
    loop {
        // Nothing else waits on this thread: it may block in the read.
        let batch = input.next_batch(args, session.next()).map_err(MapError::Input)?;
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

/// The files that what is printed depends on.
fn paths(args: &MapArgs) -> Result<Vec<PathBuf>, MapError> {
    let mut paths: Vec<PathBuf> = args.script.iter().cloned().collect();
    paths.extend(args.tables.iter().map(|table| table.file.clone()));
    paths.extend(args.settings.as_deref().and_then(|text| text.strip_prefix('@')).map(PathBuf::from));
    if let Some(name) = &args.stream {
        let config = Config::load(args.config.config.as_deref()).map_err(MapError::Config)?;
        paths.push(config.stream_folder().join(format!("{name}.toml")));
        if let StreamEntry::Ready(settings) = stream_entry(config, name)? {
            if let ScriptSource::File(path) = &settings.script.source {
                paths.push(path.clone());
            }
            paths.extend(settings.script.tables.iter().map(|table| table.file.clone()));
        }
    }
    if paths.is_empty() { Err(MapError::NothingToWatch) } else { Ok(paths) }
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
    for (at, table) in args.tables.iter().enumerate() {
        if args.tables.iter().take(at).any(|other| other.name == table.name) {
            return Err(MapError::TableTwice(table.name.clone()));
        }
    }
    let tables = Tables::read(&args.tables)?;
    if let Some(name) = &args.adapter {
        let package = adapters::package(name).ok_or_else(|| MapError::Adapter(name.clone()))?;
        return Source::of(&package, name.clone(), &settings, Limits::default(), tables);
    }
    // One of the three is there: clap has seen to that.
    let path = args.script.as_deref().unwrap_or(Path::new(""));
    let package = wiring::package_at(path).map_err(MapError::Unreadable)?;
    Source::of(&package, path.display().to_string(), &settings, Limits::default(), tables)
}

impl Source {
    /// Packets are printed where the package says that it makes them.
    fn of(
        package: &Package,
        name: String,
        settings: &Value,
        limits: Limits,
        tables: Tables,
    ) -> Result<Self, MapError> {
        match wiring::recipe(package, &name, settings, limits, tables) {
            Ok(recipe) => Ok(Self { recipe, decode: decode_for(package) }),
            Err(error) => Err(MapError::WrongSettings { name, error }),
        }
    }
}

/// Shows the bodies that a package makes to people; none where they are text.
pub fn decode_for(package: &Package) -> Option<Decode> {
    let manifest = package.manifest.as_ref()?;
    KINDS.iter().filter(|kind| manifest.serves(kind.name)).find_map(|kind| kind.decode)
}

fn source_of_stream(config: Config, name: &str) -> Result<Source, MapError> {
    let settings = match stream_entry(config, name)? {
        StreamEntry::Ready(settings) => settings,
        StreamEntry::Unusable { errors, .. } => return Err(MapError::Config(ConfigErrors(errors))),
    };
    let script = &settings.script;
    let kind = settings.destination.type_name();
    let package = wiring::read_package(&script.source, kind)
        .map_err(|problem| MapError::Unreadable(format!("stream {name}: {problem}")))?;
    let title = format!("{} (stream {name})", wiring::script_name(&script.source));
    let tables = Tables::read(&script.tables)?;
    let source = Source::of(&package, title, &script.settings, wiring::limits(script), tables)?;
    Ok(Source { decode: settings.destination.kind().decode, ..source })
}

fn stream_entry(config: Config, name: &str) -> Result<StreamEntry, MapError> {
    let folder = config.stream_folder();
    let known: Vec<String> = config.streams.iter().map(|entry| entry.name().to_owned()).collect();
    config.streams.into_iter().find(|entry| entry.name() == name).ok_or_else(|| {
        let streams = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        MapError::Stream { name: name.to_owned(), folder, streams }
    })
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

/// A table of the command line.
fn table(text: &str) -> Result<TableSettings, String> {
    let Some((name, file)) = text.split_once('=').filter(|(_, file)| !file.is_empty()) else {
        return Err("expected a name and a CSV file, such as `names=names.csv`".to_owned());
    };
    if !TableSettings::is_name(name) {
        return Err(format!("`{name}` is not a table name: 1 to 64 of `a-z A-Z 0-9 _ -`, and not `topic`"));
    }
    Ok(TableSettings { name: name.to_owned(), file: file.into(), columns: Columns::default() })
}

fn print_log(level: LogLevel, text: &str) {
    complain(format_args!("script {level:?}: {text}"));
}

fn complain(what: impl fmt::Display) {
    // If stderr is closed, the error cannot be reported.
    let _ = writeln!(io::stderr(), "{what}");
}

// ----- impl Session -----

impl<'m, W: Write> Session<'m, W> {
    /// Begins with message 0. `decode`: prints decoded bodies beside them.
    pub fn new(mapper: &'m mut Mapper, decode: Option<Decode>, out: W) -> Self {
        Self { mapper, decode, out, next: 0 }
    }

    /// Number of the next message.
    pub fn next(&self) -> u64 {
        self.next
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
                lines::rejection(&mut self.out, self.next, &fault.to_string()).map_err(MapError::Output)?;
                outcome.failed.push((self.next, fault));
                self.next += 1;
                Ok(())
            }
        }
    }

    fn print(&mut self, mapping: &Mapping, messages: usize) -> Result<(), MapError> {
        lines::mapping(&mut self.out, mapping, self.next, self.decode).map_err(MapError::Output)?;
        self.next += messages as u64;
        Ok(())
    }
}
