//! `sluicegate run`: the gateway itself.

use std::process::ExitCode;

use crate::cli::ConfigArg;

/// Run the gateway
///
/// Runs until SIGTERM or Ctrl-C, then reads no more, finishes what is in
/// flight and ends. A stream that cannot run is listed as blocked while the
/// others run; only an unusable sluicegate.toml ends the command at once.
///
/// A stream runs as its file was last accepted: by `sluicegate apply`, or at
/// the start that found the file first. A file that was changed since, or
/// cannot be used any more, is named in the log and in `sluicegate streams`.
///
/// Exit status: 0 after a clean stop, 1 where it could not start.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  sluicegate run
  sluicegate run --apply
  SLUICEGATE_LOG=debug sluicegate run --config /etc/sluicegate/sluicegate.toml")]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Accept the stream files as they are now
    ///
    /// For containers, whose files are the truth. A file that cannot be used is not accepted: its stream runs
    /// as it was accepted before, if it was. The same with `[reload] streams = "watch"`.
    #[arg(long)]
    apply: bool,
}

/// Runs the command.
pub async fn run(args: RunArgs) -> ExitCode {
    match gateway::run(args.config.config.as_deref(), args.apply).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
