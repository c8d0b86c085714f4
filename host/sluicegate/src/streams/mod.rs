//! `sluicegate streams`: what the streams do, and what an operator can tell
//! them.

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
use crate::cli::ConfigArg;

/// See how the streams are doing; pause, resume, rewind and forget them; change their scripts
///
/// Works on the running gateway of the configuration, or on its journal while no gateway runs; bare, it lists
/// the streams.
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

What changes something needs the file admin.token in the data folder, which
the gateway's user may read.

Exit status:
  0  done, or shown
  1  it could not be done; standard error says why
  2  the command line is wrong")]
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
    /// Let the messages of streams wait in the journal, also across restarts
    Pause(Names),
    /// Let paused streams go on
    Resume(Names),
    Rewind(RewindArgs),
    /// Forget streams whose files are gone, with all that is queued for them
    Forget(Names),
    /// Read the scripts and tables of streams again, and take what is new if it stands its proof
    ///
    /// For an official adapter that is its tables: `update` takes the adapter itself.
    Reload(Names),
    Update(UpdateArgs),
    Rollback(RollbackArgs),
    /// Show the versions of its script that a stream has run
    Versions(OneName),
}

/// Take the version of an official adapter that the gateway's binary brings along
///
/// An upgrade of the binary does not change what a stream runs. Without --yes nothing is done: it only shows what
/// the other version makes of the latest messages.
#[derive(Args, Clone, Debug)]
struct UpdateArgs {
    /// The stream
    #[arg(value_name = "NAME")]
    name: String,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// Go back to a version of its script that a stream has run before
///
/// The version that runs is put aside: the gateway does not take it again until its file changes or `reload` says so.
#[derive(Args, Clone, Debug)]
struct RollbackArgs {
    /// The stream
    #[arg(value_name = "NAME")]
    name: String,
    /// The version, by the first digits of its hash [default: the last that was not taken back]
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

/// Send again what a stream has sent before
///
/// Without --yes nothing is done: it only says how many messages of what time would be sent again, and where.
/// They go behind live traffic. The journal keeps messages for `[journal] keep`.
#[derive(Args, Clone, Debug)]
struct RewindArgs {
    /// The stream
    #[arg(long, value_name = "NAME")]
    stream: String,
    /// Messages received at this time or later: RFC 3339, or an age such as 30m
    #[arg(long, value_name = "TIME", value_parser = moment::check)]
    to: String,
    /// And before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment::check)]
    until: Option<String>,
    /// Only messages of these keys
    #[arg(long, value_name = "KEY,...", value_delimiter = ',')]
    keys: Option<Vec<String>>,
    /// How many messages in a time at most, for example 100/s or 30/min
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<String>,
    /// Leave what the script remembers; else it begins with nothing
    #[arg(long)]
    keep_state: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// Why the command does not come to its end.
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
        // Whoever reads us has seen enough (`| head`).
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
                return Ok(crate::cli::print_json(&streams)?);
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
                report(json, &answer, || format!("{name} is forgotten, with all that was queued for it"))?;
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
                return Ok(crate::cli::print_json(&versions)?);
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
            false => format!("{name} goes on"),
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
        crate::cli::print_line("Nothing was done. To do it, say the same with --yes.")?;
    }
    Ok(())
}

fn changed(change: &ScriptChange, json: bool) -> Result<(), StreamsError> {
    if json {
        crate::cli::print_json(change)?;
    } else {
        differences::print(change)?;
    }
    Ok(())
}

fn report(json: bool, answer: &impl Serialize, words: impl FnOnce() -> String) -> Result<(), StreamsError> {
    if json {
        crate::cli::print_json(answer)?;
    } else {
        crate::cli::print_line(&words())?;
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
    fn bare_it_lists() {
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
    fn a_rewind_is_checked_before_anybody_is_asked() {
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
