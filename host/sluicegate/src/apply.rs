//! `sluicegate plan` and `sluicegate apply`: what the stream files say takes
//! effect all together, or not at all.

use std::io::{self, Write};
use std::process::ExitCode;

use admin_api::ClientError;
use admin_api::answer::{self, Change, PlanLine};
use gateway::apply::{Candidate, Plan};
use gateway::operate::{NO_BODY, running};
use gateway::wiring;
use hyper::Method;
use journal::OpenError;
use script::{Engine, EngineError};
use settings::{Accepted, AcceptedError, Config};
use settings_reader::ConfigErrors;

use crate::cli::ConfigArg;
use crate::table::{Cell, Column, Look, Table};

/// Say what `sluicegate apply` would change
///
/// Reads and checks everything as `sluicegate check` does, compares it with what runs (or, while no gateway
/// runs, with what the next one would run), and changes nothing.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluicegate plan
  sluicegate plan --json --config /etc/sluicegate/sluicegate.toml

Exit status:
  0  an apply would succeed, with or without something to change
  1  something is wrong; standard error says all of it
  2  the command line is wrong")]
pub struct PlanArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Take over the stream files as they are now
///
/// Streams that are new start, streams that changed go on with their new settings, streams whose file is gone
/// stop (the journal keeps what it has of them for 24 h), all others are not touched. If anything is wrong in
/// any file nothing changes. While no gateway runs, the next one starts with what was applied.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluicegate apply
  sluicegate plan && sluicegate apply --config /etc/sluicegate/sluicegate.toml

Changing a running gateway needs the file admin.token in the data folder,
which the gateway's user may read.

Exit status:
  0  done
  1  nothing was changed; standard error says why
  2  the command line is wrong")]
pub struct ApplyArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why nothing is planned or changed.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    /// The files.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The gateway did not do it.
    #[error("{}", said(.0))]
    Gateway(#[from] ClientError),
    /// No gateway answers, and its journal cannot be used.
    #[error("sluicegate: {nobody}, and nothing can be applied without one: {reason}")]
    NoGateway {
        /// Who was asked.
        nobody: String,
        /// Why not.
        reason: OpenError,
    },
    /// What is to be kept cannot be.
    #[error("sluicegate: {0}")]
    Accepted(#[from] AcceptedError),
    /// What was accepted of the scripts is not to be had.
    #[error("sluicegate: the accepted scripts: {0}")]
    Scripts(io::Error),
    /// Scripts cannot be checked.
    #[error("sluicegate: {0}")]
    Engine(#[from] EngineError),
    /// Standard output.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs `plan`.
pub async fn plan(args: PlanArgs) -> ExitCode {
    end(carry_out(args.config, args.json, false).await)
}

/// Runs `apply`.
pub async fn apply(args: ApplyArgs) -> ExitCode {
    end(carry_out(args.config, args.json, true).await)
}

/// What a gateway says of the files is told as the command itself tells it.
fn said(error: &ClientError) -> String {
    match error {
        ClientError::Refused(text) => text.clone(),
        other => format!("sluicegate: {other}"),
    }
}

fn end(done: Result<(), ApplyError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads us has seen enough (`| head`).
        Err(ApplyError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn carry_out(config: ConfigArg, json: bool, apply: bool) -> Result<(), ApplyError> {
    let config = Config::load(config.config.as_deref())?;
    let plan = match running(&config).await {
        Ok(gateway) => {
            let path = if apply { "/apply" } else { "/plan" };
            gateway.call(Method::POST, path, NO_BODY).await?
        }
        Err(nobody) => offline(config, apply, nobody).await?,
    };
    if json {
        return Ok(crate::cli::print_json(&plan)?);
    }
    show(&plan, &mut io::stdout().lock())?;
    Ok(())
}

/// While no gateway runs: what the next one runs is changed.
async fn offline(mut config: Config, apply: bool, nobody: String) -> Result<answer::Plan, ApplyError> {
    let accepted = Accepted::load(&config.data)?;
    let scripts = wiring::kept_scripts(&config).await.map_err(ApplyError::Scripts)?;
    let candidate = Candidate::read(&config, !accepted.is_empty(), &Engine::new(16)?, &scripts).await?;
    let plan = Plan::new(&accepted.entries(&config), &candidate.files).answer(&candidate);
    if !apply {
        return Ok(plan);
    }
    if config.journal.path.exists() {
        config.settle(&accepted, false);
        // Whoever has the journal runs, and would not know.
        let journal = wiring::open_journal(&config).await;
        let journal = journal.map_err(|reason| ApplyError::NoGateway { nobody, reason })?;
        journal.close().await;
    }
    Accepted::of(&candidate.files).save(&config.data)?;
    Ok(answer::Plan { applied: true, ..plan })
}

/// A table of the streams, and what else is to be said.
fn show(plan: &answer::Plan, out: &mut dyn Write) -> io::Result<()> {
    if plan.streams.is_empty() {
        writeln!(out, "no stream has a file")?;
    } else {
        table(&plan.streams).write(out, None)?;
    }
    for line in &plan.streams {
        if let Some(script) = &line.script {
            writeln!(out, "\nnote: {}: {script}", line.stream)?;
        }
    }
    if !plan.restart.is_empty() {
        let keys = plan.restart.join(", ");
        writeln!(
            out,
            "\nsluicegate.toml is not what runs: {keys}; that takes effect when the gateway is started again"
        )?;
    }
    if let Some(waiting) = &plan.waiting {
        writeln!(out, "\n{waiting}")?;
    }
    let changes = plan.streams.iter().any(|line| line.change != Change::Unchanged);
    match (plan.applied, changes) {
        (true, true) => writeln!(out, "\nApplied."),
        (false, true) => writeln!(out, "\nNothing was done. `sluicegate apply` does it."),
        (_, false) => writeln!(out, "\nNothing to change."),
    }
}

fn table(lines: &[PlanLine]) -> Table {
    let titles = ["STREAM", "CHANGE", "KEYS"];
    let mut table = Table::new(titles.map(Column::Left));
    for line in lines {
        let (word, look) = match line.change {
            Change::New => ("new", Look::Good),
            Change::Changed => ("changed", Look::Warn),
            Change::Unchanged => ("unchanged", Look::Plain),
            Change::Detached => ("detached", Look::Bad),
        };
        let keys = match line.change {
            Change::Detached => "(its messages are kept 24 h)".to_owned(),
            Change::New | Change::Changed | Change::Unchanged => line.keys.join(", "),
        };
        table.row([(&line.stream).into(), Cell::from(word).look(look), keys.into()]);
    }
    table
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn shown(plan: &answer::Plan) -> String {
        let mut out = Vec::new();
        show(plan, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plan_is_a_table_and_what_it_needs() {
        let line = |stream: &str, change, keys: &[&str]| PlanLine {
            stream: stream.to_owned(),
            change,
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            script: None,
        };
        let mut plan = answer::Plan {
            applied: false,
            streams: vec![
                line("fleet", Change::Changed, &["topics", "delivery.lanes"]),
                line("old", Change::Detached, &[]),
                line("yard", Change::New, &[]),
            ],
            restart: vec!["bus.keep_alive".to_owned()],
            waiting: None,
        };
        let expected = "\
STREAM  CHANGE    KEYS
fleet   changed   topics, delivery.lanes
old     detached  (its messages are kept 24 h)
yard    new

sluicegate.toml is not what runs: bus.keep_alive; that takes effect when the gateway is started again

Nothing was done. `sluicegate apply` does it.
";
        assert_eq!(shown(&plan), expected);
        plan.streams[0].script = Some("mine 2 takes the place of mine 1".to_owned());
        assert!(shown(&plan).contains("yard    new\n\nnote: fleet: mine 2 takes the place of mine 1\n\n"));
        plan.streams[0].script = None;
        (plan.applied, plan.restart) = (true, Vec::new());
        assert!(shown(&plan).ends_with("yard    new\n\nApplied.\n"));
        plan.streams = vec![line("yard", Change::Unchanged, &[])];
        assert!(shown(&plan).ends_with("yard    unchanged\n\nNothing to change.\n"));
    }
}
