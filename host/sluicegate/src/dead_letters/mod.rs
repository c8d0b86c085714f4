//! `sluicegate dead-letters`: what could not be delivered, why, and what
//! becomes of it.

mod show;

use std::io;
use std::process::ExitCode;

use admin_api::answer::{LetterFilter, MAX_LETTERS};
use admin_api::moment;
use clap::{Args, Subcommand};
use gateway::operate::{Target, TargetError};

use crate::cli::ConfigArg;

/// See the messages that could not be delivered; replay or drop them
///
/// Works on the running gateway of the configuration, with the file admin.token in the data folder, which the
/// gateway's user may read, or on its journal while no gateway runs; bare, it lists the dead letters.
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
  0  done, or shown
  1  it could not be done; standard error says why
  2  the command line is wrong")]
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
    /// List dead letters, the oldest first
    List(FilterArgs),
    /// Show all that is known of dead letters: message, refused delivery, reply
    Show {
        /// Their numbers
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
    Replay(ReplayArgs),
    Drop(DropArgs),
}

/// Send dead letters again, mapped by the script as it is now
///
/// Each is read again by its stream and is no dead letter any more; what fails again becomes a new one.
#[derive(Args, Clone, Debug)]
struct ReplayArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Send the refused deliveries as they were, without the script; what has none with it is mapped
    #[arg(long)]
    as_is: bool,
}

/// Forget dead letters for good
#[derive(Args, Clone, Debug)]
struct DropArgs {
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(Args, Clone, Debug, Default)]
struct WhichArgs {
    /// These numbers
    #[arg(value_name = "ID")]
    ids: Vec<u64>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All that there are
    #[arg(long, conflicts_with_all = ["ids", "stream", "reason", "since", "limit"])]
    all: bool,
}

/// Which dead letters; all that is given must hold.
#[derive(Args, Clone, Debug, Default)]
struct FilterArgs {
    /// Only those of this stream
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Only those whose reason or reply contains this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those given up at this time or later: RFC 3339, or an age such as 30m
    #[arg(long, value_name = "TIME", value_parser = moment::check)]
    since: Option<String>,
    /// Only the oldest so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// Why the command does not come to its end.
#[derive(Debug, thiserror::Error)]
enum DeadLettersError {
    /// It could not be done.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Nobody has said which.
    #[error(
        "there are several dead letters; say which: by ID, --stream, --reason, --since, --limit, or --all"
    )]
    Which,
    /// Some of the named ones are gone.
    #[error("{verb} {taken} of {named}: the others are not there (any more), or not of that kind")]
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
        // Whoever reads us has seen enough (`| head`).
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
                crate::cli::print_json(&found)?;
            } else {
                show::list(&found)?;
            }
        }
        Command::Show { ids } => {
            for (number, id) in ids.into_iter().enumerate() {
                let letter = target.dead_letter(id).await?;
                if json {
                    crate::cli::print_json(&letter)?;
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
        crate::cli::print_json(taken)?;
    } else {
        crate::cli::print_line(&match taken_count {
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
    fn what_makes_no_sense_is_refused() {
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
