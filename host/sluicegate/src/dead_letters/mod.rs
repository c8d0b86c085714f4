//! `sluicegate dead-letters`: lists, replays and deletes dead letters.

mod show;

use std::io;
use std::process::ExitCode;

use admin_api::answer::{LetterFilter, MAX_LETTERS};
use admin_api::moment;
use clap::{Args, Subcommand};
use gateway::operate::{Target, TargetError};

use crate::config_arg::ConfigArg;

/// List, show, replay and delete messages that could not be delivered
///
/// Works on the running gateway, or on its journal if no gateway is running. A running gateway requires read access
/// to the file admin.token in the data folder. Without a subcommand it lists the dead letters.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  sluicegate dead-letters
  sluicegate dead-letters list --stream fleet-to-http --since 24h
  sluicegate dead-letters show 17
  sluicegate dead-letters replay --stream fleet-to-http --reason \"400 Bad\"
  sluicegate dead-letters replay 17 18 --as-is
  sluicegate dead-letters drop --all

Exit status:
  0  success
  1  failure; standard error says why
  2  invalid command line")]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// List dead letters, oldest first
    List(FilterArgs),
    /// Show dead letters in full: message, rejected delivery, reply
    Show {
        /// Numbers of the dead letters
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
    Replay(ReplayArgs),
    Drop(DropArgs),
}

/// Replay dead letters: map them again with the current script and deliver them
///
/// A replayed dead letter is removed from the list. A message that fails again becomes a new dead letter.
#[derive(Args, Clone, Debug)]
struct ReplayArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Send the rejected deliveries unchanged; only dead letters without a delivery are mapped
    #[arg(long)]
    as_is: bool,
}

/// Delete dead letters permanently
#[derive(Args, Clone, Debug)]
struct DropArgs {
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(Args, Clone, Debug, Default)]
struct WhichArgs {
    /// Dead letters with these numbers
    #[arg(value_name = "ID")]
    ids: Vec<u64>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All dead letters
    #[arg(long, conflicts_with_all = ["ids", "stream", "reason", "since", "limit"])]
    all: bool,
}

/// Which dead letters; all that is given must hold.
#[derive(Args, Clone, Debug, Default)]
struct FilterArgs {
    /// Only dead letters of this stream
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Only dead letters whose reason or reply contains this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only dead letters since this time: RFC 3339, or an age such as 30m
    #[arg(long, value_name = "TIME", value_parser = moment::check)]
    since: Option<String>,
    /// Only the N oldest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum DeadLettersError {
    /// It could not be done.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No dead letter was specified.
    #[error("several dead letters match; specify an ID, --stream, --reason, --since, --limit, or --all")]
    Which,
    /// Some of the named ones are gone.
    #[error("{verb} {taken} of {named}: the others do not exist (any more), or do not match")]
    Fewer {
        /// What was done.
        verb: &'static str,
        /// With so many.
        taken: u64,
        /// Of so many that were named.
        named: usize,
    },
    /// Standard output.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs the command.
pub async fn run(args: DeadLettersArgs) -> ExitCode {
    match carry_out(args).await {
        Ok(()) => ExitCode::SUCCESS,
        // The reader closed the pipe (`| head`).
        Err(DeadLettersError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sluicegate: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn carry_out(args: DeadLettersArgs) -> Result<(), DeadLettersError> {
    let DeadLettersArgs { command, config: ConfigArg { config }, json } = args;
    let target = Target::find(config.as_deref()).await?;
    let command = command.unwrap_or_else(|| Command::List(FilterArgs::default()));
    let done = on(&target, command, json).await;
    target.close().await;
    done
}

async fn on(target: &Target, command: Command, json: bool) -> Result<(), DeadLettersError> {
    match command {
        Command::List(filter) => {
            let mut filter = filter.into_filter();
            filter.limit = filter.limit.map(|limit| limit.min(MAX_LETTERS));
            let found = target.dead_letters(&filter).await?;
            if json {
                crate::print::print_json(&found)?;
            } else {
                show::list(&found)?;
            }
        }
        Command::Show { ids } => {
            for (number, id) in ids.into_iter().enumerate() {
                let letter = target.dead_letter(id).await?;
                if json {
                    crate::print::print_json(&letter)?;
                } else {
                    show::letter(&mut io::stdout().lock(), &letter, number > 0)?;
                }
            }
        }
        Command::Replay(ReplayArgs { which, as_is }) => {
            let filter = chosen(target, which).await?;
            let taken = target.replay(&filter, as_is).await?;
            report(json, "replayed", &taken, &filter)?;
        }
        Command::Drop(DropArgs { which }) => {
            let filter = chosen(target, which).await?;
            let taken = target.drop_dead_letters(&filter).await?;
            report(json, "dropped", &taken, &filter)?;
        }
    }
    Ok(())
}

/// What to replay or drop. Several are never meant by saying nothing.
async fn chosen(target: &Target, which: WhichArgs) -> Result<LetterFilter, DeadLettersError> {
    let WhichArgs { ids, filter, all } = which;
    let mut filter = filter.into_filter();
    if !ids.is_empty() {
        filter.ids = Some(ids);
    }
    if filter == LetterFilter::default() && !all {
        let few = LetterFilter { limit: Some(2), ..LetterFilter::default() };
        let found = target.dead_letters(&few).await?.dead_letters;
        if found.len() > 1 {
            return Err(DeadLettersError::Which);
        }
        // Not one that has come meanwhile.
        filter.ids = Some(found.iter().map(|letter| letter.id).collect());
    }
    Ok(filter)
}

fn report(
    json: bool,
    verb: &'static str,
    taken: &admin_api::answer::Taken,
    filter: &LetterFilter,
) -> Result<(), DeadLettersError> {
    let taken_count = taken.dead_letters;
    if json {
        crate::print::print_json(taken)?;
    } else {
        crate::print::print_line(&match taken_count {
            1 => format!("{verb} 1 dead letter"),
            n => format!("{verb} {n} dead letters"),
        })?;
    }
    match &filter.ids {
        Some(ids) if taken_count < ids.len() as u64 => {
            Err(DeadLettersError::Fewer { verb, taken: taken_count, named: ids.len() })
        }
        _ => Ok(()),
    }
}

impl FilterArgs {
    fn into_filter(self) -> LetterFilter {
        let limit = self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        LetterFilter { stream: self.stream, reason: self.reason, since: self.since, ids: None, limit }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DeadLettersArgs,
    }

    fn parse(line: &[&str]) -> Result<DeadLettersArgs, String> {
        let words = std::iter::once(&"dead-letters").chain(line);
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_are_taken_over() {
        assert!(parse(&[]).unwrap().command.is_none());
        let line =
            ["list", "--stream", "s", "--reason", "400 Bad", "--since", "1h", "--limit", "5", "--json"];
        let args = parse(&line).unwrap();
        let Some(Command::List(filter)) = args.command else { panic!("no list") };
        assert!(args.json);
        let expected = LetterFilter {
            stream: Some("s".to_owned()),
            reason: Some("400 Bad".to_owned()),
            since: Some("1h".to_owned()),
            ids: None,
            limit: Some(5),
        };
        assert_eq!(filter.into_filter(), expected);
        let Some(Command::Replay(args)) = parse(&["replay", "17", "18", "--as-is"]).unwrap().command else {
            panic!("no replay")
        };
        assert_eq!((args.which.ids, args.as_is), (vec![17, 18], true));
    }

    #[test]
    fn conflicting_arguments_are_rejected() {
        for (line, words) in [
            (&["show"][..], "ID"),
            (&["show", "x"], "invalid digit"),
            (&["list", "--limit", "0"], "0 is not in"),
            (&["list", "--since", "soon"], "an age such as 30m"),
            (&["drop", "--all", "--stream", "s"], "cannot be used with"),
            (&["drop", "--as-is"], "unexpected argument"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line:?}: {error}");
        }
    }
}
