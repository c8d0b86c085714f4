//! `sluicegate streams`: lists the streams and controls them.

mod show;

use std::io;
use std::process::ExitCode;

use admin_api::answer::{RewindRequest, Rewound, ScriptChange};
use admin_api::moment;
use clap::{Args, Subcommand};
use gateway::operate::{Target, TargetError};
use serde::Serialize;
use settings::{RATE, Rate};

use super::differences;
use crate::config_arg::ConfigArg;

/// List, pause, resume, rewind and forget streams; change their scripts
///
/// Works on the running gateway, or on its journal if no gateway is running. Without a subcommand it lists the
/// streams.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  sluicegate streams
  sluicegate streams pause fleet-to-http
  sluicegate streams rewind --stream fleet-to-http --to 30m
  sluicegate streams rewind --stream fleet-to-http --to 30m --keys 7001 --yes
  sluicegate streams rewind --stream fleet --to 2026-03-01T12:00:00Z --rate 50/s
  sluicegate streams forget fleet-of-last-year
  sluicegate streams reload fleet-to-http
  sluicegate streams rollback fleet-to-http --to 489a491f
  sluicegate streams update fleet-to-aws --yes

Subcommands that change a running gateway require read access to the file
admin.token in the data folder.

Exit status:
  0  success
  1  failure; standard error says why
  2  invalid command line")]
pub struct StreamsArgs {
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
    /// List the streams: state, lag and counters of each
    List,
    /// Pause streams: their messages stay in the journal, also across restarts
    Pause(Names),
    /// Resume paused streams
    Resume(Names),
    Rewind(RewindArgs),
    /// Remove streams without a file, and all messages that are queued for them
    Forget(Names),
    /// Read the scripts and tables of streams again, and use new versions if they are validated
    ///
    /// For a stream with an official adapter, only its tables: `update` changes the adapter itself.
    Reload(Names),
    Update(UpdateArgs),
    Rollback(RollbackArgs),
    /// List the script versions that a stream has run
    Versions(OneName),
}

/// Switch a stream to the version of its official adapter in the gateway's binary
///
/// An upgrade of the binary does not change the script of a stream. Without --yes, the command only compares the
/// output of both versions for recent messages.
#[derive(Args, Clone, Debug)]
struct UpdateArgs {
    /// The stream
    #[arg(value_name = "NAME")]
    name: String,
    /// Carry out the change
    #[arg(long)]
    yes: bool,
}

/// Roll a stream back to a script version that it has run before
///
/// The current version is quarantined: the gateway does not load it again until its file changes or an operator
/// runs `reload`.
#[derive(Args, Clone, Debug)]
struct RollbackArgs {
    /// The stream
    #[arg(value_name = "NAME")]
    name: String,
    /// The version, by the first digits of its hash [default: the last one that was not rolled back]
    #[arg(long, value_name = "VERSION", value_parser = version)]
    to: Option<String>,
}

#[derive(Args, Clone, Debug)]
struct OneName {
    /// The stream
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Args, Clone, Debug)]
struct Names {
    /// The streams
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Rewind a stream: send messages again that have been sent before
///
/// Without --yes, the command only reports how many messages would be sent again, from which time, and where to.
/// Live traffic has priority over them. The journal keeps messages for `[journal] keep`.
#[derive(Args, Clone, Debug)]
struct RewindArgs {
    /// The stream
    #[arg(long, value_name = "NAME")]
    stream: String,
    /// Messages received at this time or later: RFC 3339, or an age such as 30m
    #[arg(long, value_name = "TIME", value_parser = moment::check)]
    to: String,
    /// Messages received before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment::check)]
    until: Option<String>,
    /// Only messages of these keys
    #[arg(long, value_name = "KEY,...", value_delimiter = ',')]
    keys: Option<Vec<String>>,
    /// Maximum rate of the messages, for example 100/s or 30/min
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<String>,
    /// Keep the state of the script instead of clearing it
    #[arg(long)]
    keep_state: bool,
    /// Carry out the change
    #[arg(long)]
    yes: bool,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum StreamsError {
    /// It could not be done.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Standard output.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Checks a rate on the command line.
fn rate(text: &str) -> Result<String, String> {
    Rate::parse(text).map(|rate| rate.to_string()).ok_or_else(|| format!("expected {RATE}"))
}

/// Checks the beginning of a version on the command line.
fn version(text: &str) -> Result<String, String> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if (4..=64).contains(&text.len()) && text.bytes().all(is_digit) {
        Ok(text.to_owned())
    } else {
        Err("expected the first 4 or more of the 64 hexadecimal digits that `streams versions` shows"
            .to_owned())
    }
}

/// Runs the command.
pub async fn run(args: StreamsArgs) -> ExitCode {
    match carry_out(args).await {
        Ok(()) => ExitCode::SUCCESS,
        // The reader closed the pipe (`| head`).
        Err(StreamsError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluicegate: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn carry_out(args: StreamsArgs) -> Result<(), StreamsError> {
    let StreamsArgs { command, config: ConfigArg { config }, json } = args;
    let target = Target::find(config.as_deref()).await?;
    let done = on(&target, command.unwrap_or(Command::List), json).await;
    target.close().await;
    done
}

async fn on(target: &Target, command: Command, json: bool) -> Result<(), StreamsError> {
    match command {
        Command::List => {
            let streams = target.streams().await?;
            if json {
                return Ok(crate::print::print_json(&streams)?);
            }
            let journal = target.journal().await?;
            show::streams(&streams)?;
            show::notes(&mut io::stdout().lock(), &streams, &journal)?;
        }
        Command::Pause(Names { names }) => pause(target, &names, true, json).await?,
        Command::Resume(Names { names }) => pause(target, &names, false, json).await?,
        Command::Rewind(args) => rewind(target, args, json).await?,
        Command::Forget(Names { names }) => {
            for name in &names {
                let answer = target.forget(name).await?;
                report(json, &answer, || format!("removed {name} and all messages that were queued for it"))?;
            }
        }
        Command::Reload(Names { names }) => {
            for name in &names {
                changed(&target.reload(name).await?, json)?;
            }
        }
        Command::Update(args) => update(target, args, json).await?,
        Command::Rollback(RollbackArgs { name, to }) => changed(&target.roll_back(&name, to).await?, json)?,
        Command::Versions(OneName { name }) => {
            let versions = target.versions(&name).await?;
            if json {
                return Ok(crate::print::print_json(&versions)?);
            }
            show::versions(&versions)?;
        }
    }
    Ok(())
}

async fn pause(target: &Target, names: &[String], paused: bool, json: bool) -> Result<(), StreamsError> {
    for name in names {
        let answer = target.pause(name, paused).await?;
        report(json, &answer, || match paused {
            true => format!("{name} is paused: its messages wait until `sluicegate streams resume {name}`"),
            false => format!("{name} is running again"),
        })?;
    }
    Ok(())
}

async fn rewind(target: &Target, args: RewindArgs, json: bool) -> Result<(), StreamsError> {
    let RewindArgs { stream, to, until, keys, rate, keep_state, yes } = args;
    let request = RewindRequest { to, until, keys, rate, keep_state, dry_run: !yes };
    let answer: Rewound = target.rewind(&stream, request).await?;
    report(json, &answer, || show::rewound(&answer, keep_state))
}

async fn update(target: &Target, args: UpdateArgs, json: bool) -> Result<(), StreamsError> {
    let UpdateArgs { name, yes } = args;
    if yes {
        return changed(&target.update(&name).await?, json);
    }
    let change = target.compare(&name, None).await?;
    changed(&change, json)?;
    if !json && change.before.as_ref() != Some(&change.after) {
        crate::print::print_line("Nothing was changed. Repeat the command with --yes to change it.")?;
    }
    Ok(())
}

fn changed(change: &ScriptChange, json: bool) -> Result<(), StreamsError> {
    if json {
        crate::print::print_json(change)?;
    } else {
        differences::print(change)?;
    }
    Ok(())
}

fn report(json: bool, answer: &impl Serialize, words: impl FnOnce() -> String) -> Result<(), StreamsError> {
    if json {
        crate::print::print_json(answer)?;
    } else {
        crate::print::print_line(&words())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: StreamsArgs,
    }

    fn parse(line: &str) -> Result<StreamsArgs, String> {
        let words = std::iter::once("streams").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn no_subcommand_lists_streams() {
        let args = parse("").unwrap();
        assert!(args.command.is_none() && !args.json);
        for line in ["--json list", "list --json"] {
            let args = parse(line).unwrap();
            assert!(matches!(args.command, Some(Command::List)) && args.json, "{line}");
        }
        let args = parse("pause a b --config x.toml").unwrap();
        assert_eq!(args.config.config.unwrap().to_str(), Some("x.toml"));
        assert!(matches!(args.command, Some(Command::Pause(Names { names })) if names == ["a", "b"]));
    }

    #[test]
    fn rewind_arguments_are_checked_first() {
        let line = "rewind --stream s --to 30m --until 2026-03-01T12:00:00Z --keys a,b --rate 30/min --keep-state --yes";
        let Some(Command::Rewind(args)) = parse(line).unwrap().command else { panic!("no rewind") };
        assert_eq!((args.stream.as_str(), args.to.as_str()), ("s", "30m"));
        assert_eq!(
            (args.until.as_deref(), args.rate.as_deref()),
            (Some("2026-03-01T12:00:00Z"), Some("30/min"))
        );
        assert_eq!(args.keys.as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
        assert!(args.keep_state && args.yes);
        for (line, words) in [
            ("rewind --stream s", "--to"),
            ("rewind --to 30m", "--stream"),
            ("rewind --stream s --to yesterday", "2026-03-01T12:00:00Z"),
            ("rewind --stream s --to 30m --rate fast", "100/s"),
            ("pause", "NAME"),
            ("reload", "NAME"),
            ("rollback s --to 12", "hexadecimal"),
            ("rollback s --to latest", "streams versions"),
            ("update a b", "unexpected argument"),
            ("stop a", "unrecognized"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
