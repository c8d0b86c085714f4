//! `sluicegate run`: the gateway itself.

use std::process::ExitCode;

use crate::config_arg::ConfigArg;

/// Run the gateway
///
/// Runs until SIGTERM or Ctrl-C; then it stops reading, drains the deliveries in
/// flight and exits. A stream that cannot run is listed as blocked, and the
/// others run. Only an invalid sluicegate.toml prevents the start.
///
/// Each stream runs the last accepted version of its file: the version accepted
/// by `sluicegate apply`, or the one that the first start found. If the file has
/// changed since, or is invalid now, the log and `sluicegate streams` say so.
///
/// Exit status: 0 after a clean shutdown, 1 if the gateway could not start.
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
    /// For containers, where the files are authoritative. An invalid file is not accepted: its stream runs the
    /// version accepted before, if there is one. `[reload] streams = "watch"` implies --apply.
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
