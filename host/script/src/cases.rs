//! Golden cases: what a script is expected to make of given messages.
//!
//! ```text
//! cases/<name>/input.jsonl     one payload a line; its bytes are the payload
//!              input-2.jsonl   later batches, by the same instance
//!              settings.json   `{}` where it is missing
//!              tables/T.csv    the lookup table T
//!              expected.jsonl  what `sluicegate map` prints
//! ```
//!
//! A case runs twice, in a fresh and in a used instance, each time with an
//! empty state: a script whose globals change what it makes shows here.

mod difference;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use message::Message;
use serde_json::{Map, Value};

use super::lines::{self, Decode};
use super::package::{Package, PackageError};
use super::schema::SettingsError;
use super::sections::TABLES;
use super::{
    Engine, Limits, LoadError, LogSink, Mapper, Recipe, Script, ScriptFault, State, TableSettings, Tables,
};

pub use difference::{Difference, NotJson};

/// The topic of messages that have none: as flespi's channels publish.
pub const TOPIC: &str = "flespi/message/gw/devices/1";

/// The time of receipt of the first message: fixed, so that the same input
/// prints the same output.
pub const RECEIVED_AT: u64 = 1_700_000_000_000;

/// Milliseconds between two messages.
pub const INTERVAL: u64 = 1_000;

/// The file with what is expected.
pub const EXPECTED: &str = "expected.jsonl";

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows: the name of its folder.
    pub name: String,
    /// `[script.settings]`.
    pub settings: Value,
    /// What it may look up.
    pub tables: Tables,
    /// The batches, payloads in lines; at least one.
    pub inputs: Vec<Bytes>,
    /// What should become of them; none: nobody has said yet.
    pub expected: Option<String>,
}

/// A file of a case.
pub(super) struct CaseFile<'a> {
    pub(super) case: &'a str,
    pub(super) file: &'a str,
    pub(super) data: Bytes,
}

/// A case that a script does not pass.
#[derive(Debug)]
pub struct CaseFault {
    /// Its name.
    pub case: String,
    /// Why.
    pub problem: CaseProblem,
}

/// Why a script does not pass a case.
#[derive(Debug, thiserror::Error)]
pub enum CaseProblem {
    /// The manifest does not allow its settings.
    #[error("its settings.json: {0}")]
    Settings(SettingsError),
    /// The script cannot be used, or refuses the settings.
    #[error("the script cannot be used: {0}")]
    Load(LoadError),
    /// The script fails.
    #[error("{}: {fault}", message.map_or_else(|| "a batch".to_owned(), |message| format!("message {message}")))]
    Script {
        /// Which message it fails on alone; none: on none of them.
        message: Option<u64>,
        /// How.
        fault: ScriptFault,
    },
    /// The script is not pure.
    #[error("a used instance maps otherwise (+) than a fresh one (-)\n{0}")]
    Impure(Difference),
    /// Nobody has said what is expected.
    #[error("expected.jsonl is missing")]
    NothingExpected,
    /// What is expected cannot be read.
    #[error("expected.jsonl: {0}")]
    Expected(NotJson),
    /// Something else is made than expected.
    #[error("it maps otherwise (+) than expected (-)\n{0}")]
    Differs(Difference),
}

/// Runs the cases of a package.
pub struct Runner<'a> {
    engine: &'a Engine,
    package: &'a Package,
    limits: &'a Limits,
    decode: Option<Decode>,
    /// Holds the compiled code, which all cases share.
    code: Option<Script>,
}

/// Runs all cases of a package and compares; what cannot be compared without
/// knowing the destination (`packet`) is not.
pub async fn check(engine: &Engine, package: &Package, limits: &Limits) -> Result<(), Vec<CaseFault>> {
    let mut runner = Runner::new(engine, package, limits, None);
    let mut faults = Vec::new();
    for case in &package.cases {
        let Err(problem) = runner.check(case).await else { continue };
        // What is no script fails them all in the same way.
        let hopeless = problem.concerns_every_case();
        faults.push(CaseFault { case: case.name.clone(), problem });
        if hopeless {
            break;
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

// ----- impl Case -----

impl Case {
    /// Cases from their files, in the order of their names.
    pub(super) fn read(files: Vec<CaseFile<'_>>) -> Result<Vec<Self>, PackageError> {
        let mut names: Vec<&str> = files.iter().map(|file| file.case).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                let files = files.iter().filter(|file| file.case == name);
                Self::read_one(name, files)
                    .map_err(|problem| PackageError::Case { case: name.to_owned(), problem })
            })
            .collect()
    }

    fn read_one<'f>(name: &str, files: impl Iterator<Item = &'f CaseFile<'f>>) -> Result<Self, String> {
        let mut inputs: Vec<(usize, Bytes)> = Vec::new();
        let (mut settings, mut expected) = (Value::Object(Map::new()), None);
        let mut tables = Vec::new();
        for CaseFile { file, data, .. } in files {
            match *file {
                "settings.json" => {
                    settings = serde_json::from_slice(data).map_err(|e| format!("settings.json: {e}"))?;
                    if !settings.is_object() {
                        return Err(format!("settings.json is {settings}, expected one JSON object"));
                    }
                }
                EXPECTED => {
                    let text = String::from_utf8(data.to_vec()).map_err(|e| format!("{EXPECTED}: {e}"))?;
                    expected = Some(text);
                }
                other => match (batch_number(other), table_name(other)) {
                    (Some(number), _) => inputs.push((number, data.clone())),
                    (None, Some(table)) => tables.push((table, &**data)),
                    (None, None) => {
                        return Err(format!(
                            "unexpected file `{}`, expected input.jsonl, input-2.jsonl and so on, \
                             settings.json, tables/NAME.csv, expected.jsonl",
                            other.escape_debug()
                        ));
                    }
                },
            }
        }
        let tables = Tables::of_csv(tables).map_err(|error| error.to_string())?;
        inputs.sort_by_key(|(number, _)| *number);
        let gap = inputs.iter().zip(1..).find(|((number, _), expected)| number != expected);
        match gap {
            Some((_, 1)) => Err("input.jsonl is missing".to_owned()),
            Some((_, number)) => Err(format!("input-{number}.jsonl is missing")),
            None if inputs.is_empty() => Err("input.jsonl is missing".to_owned()),
            None => Ok(Self {
                name: name.to_owned(),
                settings,
                tables,
                inputs: inputs.into_iter().map(|(_, input)| input).collect(),
                expected,
            }),
        }
    }

    /// Its messages, batch by batch.
    pub fn batches(&self) -> Vec<Vec<Message>> {
        let mut number = 0;
        self.inputs.iter().map(|input| batch(input, &mut number)).collect()
    }
}

/// Which table a file of this name holds.
fn table_name(file: &str) -> Option<&str> {
    let name = file.strip_prefix(TABLES)?.strip_prefix('/')?.strip_suffix(".csv")?;
    TableSettings::is_name(name).then_some(name)
}

/// Which batch a file of this name holds, counted from 1.
fn batch_number(file: &str) -> Option<usize> {
    if file == "input.jsonl" {
        return Some(1);
    }
    let digits = file.strip_prefix("input-")?.strip_suffix(".jsonl")?;
    let number = digits.parse::<usize>().ok().filter(|number| *number > 1)?;
    (digits == number.to_string()).then_some(number)
}

/// Each line is a payload; the last may lack its line end.
fn batch(input: &Bytes, number: &mut u64) -> Vec<Message> {
    let content = input.strip_suffix(b"\n").unwrap_or(input);
    let lines = content.split(|byte| *byte == b'\n');
    lines
        .map(|line| {
            let received_at = RECEIVED_AT + *number * INTERVAL;
            *number += 1;
            Message { topic: TOPIC.into(), payload: input.slice_ref(line), received_at }
        })
        .collect()
}

// ----- impl Runner -----

impl<'a> Runner<'a> {
    /// `decode`: shows the bodies of deliveries in what is printed.
    pub fn new(engine: &'a Engine, package: &'a Package, limits: &'a Limits, decode: Option<Decode>) -> Self {
        Self { engine, package, limits, decode, code: None }
    }

    /// Runs a case and compares.
    pub async fn check(&mut self, case: &Case) -> Result<(), CaseProblem> {
        let printed = self.run(case).await?;
        compare(case, &printed)
    }

    /// What is made of a case's messages, the same in a fresh and in a used
    /// instance.
    pub async fn run(&mut self, case: &Case) -> Result<String, CaseProblem> {
        let settings = self.package.settings(&case.settings).map_err(CaseProblem::Settings)?;
        let recipe = Recipe {
            settings,
            limits: self.limits.clone(),
            tables: case.tables.clone(),
            ..Recipe::new(case.name.as_str(), self.package.wasm.clone())
        };
        let script = Script::load(self.engine, recipe).await.map_err(CaseProblem::Load)?;
        let state = State::new();
        let silent: LogSink = Arc::new(|_, _| {});
        let mut mapper = script.lane(0, &state, silent);
        self.code = Some(script);
        let batches = case.batches();
        let fresh = self.map(&mut mapper, &batches).await?;
        state.clear();
        let used = self.map(&mut mapper, &batches).await?;
        match Difference::between(&fresh, &used) {
            Ok(None) => Ok(fresh),
            Ok(Some(difference)) => Err(CaseProblem::Impure(difference)),
            // It is our own printing.
            Err(error) => Err(CaseProblem::Expected(error)),
        }
    }

    async fn map(&self, mapper: &mut Mapper, batches: &[Vec<Message>]) -> Result<String, CaseProblem> {
        let mut printed = Vec::new();
        let mut first = 0;
        for batch in batches {
            let mapping = match mapper.transform(batch).await {
                Ok(mapping) => mapping,
                Err(fault) => return Err(blame(mapper, batch, first, fault).await),
            };
            // A vector takes everything.
            let _ = lines::mapping(&mut printed, &mapping, first, self.decode);
            first += batch.len() as u64;
        }
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }
}

/// Compares with what is expected of a case.
pub fn compare(case: &Case, printed: &str) -> Result<(), CaseProblem> {
    let expected = case.expected.as_deref().ok_or(CaseProblem::NothingExpected)?;
    match Difference::between(expected, printed).map_err(CaseProblem::Expected)? {
        None => Ok(()),
        Some(difference) => Err(CaseProblem::Differs(difference)),
    }
}

/// Looks for the message that the script fails on alone, too.
async fn blame(mapper: &mut Mapper, batch: &[Message], first: u64, fault: ScriptFault) -> CaseProblem {
    for (message, number) in batch.iter().zip(first..) {
        if let Err(fault) = mapper.transform(std::slice::from_ref(message)).await {
            return CaseProblem::Script { message: Some(number), fault };
        }
    }
    CaseProblem::Script { message: None, fault }
}

// ----- impl CaseProblem -----

impl CaseProblem {
    /// Whether the script fails in every other case as well.
    pub fn concerns_every_case(&self) -> bool {
        matches!(self, Self::Load(error) if !matches!(error, LoadError::Settings(_)))
    }
}

impl fmt::Display for CaseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case.escape_debug(), self.problem)
    }
}
