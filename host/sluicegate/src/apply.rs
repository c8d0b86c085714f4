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

use crate::config_arg::ConfigArg;
use crate::table::{Cell, Column, Look, Table};

/// Preview what `sluicegate apply` would change
///
/// Checks the files as `sluicegate check` does and compares them with the running configuration, or, if no
/// gateway is running, with the configuration of the next start. Changes nothing.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluicegate plan
  sluicegate plan --json --config /etc/sluicegate/sluicegate.toml

Exit status:
  0  an apply would succeed, even if nothing would change
  1  errors; standard error lists all of them
  2  invalid command line")]
pub struct PlanArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Apply the stream files to the running gateway, all or nothing
///
/// New streams start, changed streams continue with their new settings, and streams without a file stop (the
/// journal keeps their messages for 24 h). Other streams are not touched. An error in any file means that
/// nothing changes. If no gateway is running, the next start uses the applied files.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluicegate apply
  sluicegate plan && sluicegate apply --config /etc/sluicegate/sluicegate.toml

Changing a running gateway requires read access to the file admin.token in
the data folder.

Exit status:
  0  done
  1  nothing changed; standard error says why
  2  invalid command line")]
pub struct ApplyArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why the plan or the change failed.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    /// The files.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The gateway did not do it.
    #[error("{}", said(.0))]
    Gateway(#[from] ClientError),
    /// No gateway answers, and its journal cannot be used.
    #[error("sluicegate: {absent}, and the files cannot be applied offline: {reason}")]
    NoGateway {
        /// Who was asked.
        absent: String,
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
        // The reader closed the pipe (`| head`).
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
        Err(absent) => offline(config, apply, absent).await?,
    };
    if json {
        return Ok(crate::print::print_json(&plan)?);
    }
    show(&plan, &mut io::stdout().lock())?;
    Ok(())
}

/// While no gateway runs: what the next one runs is changed.
async fn offline(mut config: Config, apply: bool, absent: String) -> Result<answer::Plan, ApplyError> {
    let accepted = Accepted::load(&config.data)?;
    let scripts = wiring::kept_scripts(&config).await.map_err(ApplyError::Scripts)?;
    let candidate = Candidate::read(&config, !accepted.is_empty(), &Engine::new(16)?, &scripts).await?;
    let plan = Plan::new(&accepted.entries(&config), &candidate.files).answer(&candidate);
    if !apply {
        return Ok(plan);
    }
    if config.journal.path.exists() {
        config.settle(&accepted, false);
        // A process that holds the journal is a running gateway.
        let journal = wiring::open_journal(&config).await;
        let journal = journal.map_err(|reason| ApplyError::NoGateway { absent, reason })?;
        journal.close().await;
    }
    Accepted::of(&candidate.files).save(&config.data)?;
    Ok(answer::Plan { applied: true, ..plan })
}

/// A table of the streams, and what else is to be said.
fn show(plan: &answer::Plan, out: &mut dyn Write) -> io::Result<()> {
    if plan.streams.is_empty() {
        writeln!(out, "no stream files")?;
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
        writeln!(out, "\nsluicegate.toml has changed: {keys}; restart the gateway to apply these keys")?;
    }
    if let Some(waiting) = &plan.waiting {
        writeln!(out, "\n{waiting}")?;
    }
    let changes = plan.streams.iter().any(|line| line.change != Change::Unchanged);
    match (plan.applied, changes) {
        (true, true) => writeln!(out, "\nApplied."),
        (false, true) => writeln!(out, "\nNothing was changed. Run `sluicegate apply` to apply it."),
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
            Change::Detached => "(messages kept for 24 h)".to_owned(),
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
    fn plan_is_shown_as_table_with_notes() {
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
old     detached  (messages kept for 24 h)
yard    new

sluicegate.toml has changed: bus.keep_alive; restart the gateway to apply these keys

Nothing was changed. Run `sluicegate apply` to apply it.
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
