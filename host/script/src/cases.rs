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

use message::Message;

use super::lines::{self, Decode};
use super::package::Package;
use super::schema::SettingsError;
use super::{Engine, Limits, LoadError, LogSink, Mapper, Recipe, Script, ScriptFault, State};

pub use crate::case::{Case, EXPECTED, INTERVAL, RECEIVED_AT, TOPIC};
pub use difference::{Difference, NotJson};

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
    #[error("the output of a used instance (+) differs from that of a fresh one (-)\n{0}")]
    Impure(Difference),
    /// Nobody has said what is expected.
    #[error("expected.jsonl is missing")]
    NothingExpected,
    /// What is expected cannot be read.
    #[error("expected.jsonl: {0}")]
    Expected(NotJson),
    /// Something else is made than expected.
    #[error("the output (+) differs from the expected output (-)\n{0}")]
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
