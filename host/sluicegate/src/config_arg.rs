//! `--config`, an option of most commands.

/// The path of the configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArg {
    /// The sluicegate.toml to read
    ///
    /// Default: the first of $SLUICEGATE_CONFIG, ./sluicegate.toml and /etc/sluicegate/sluicegate.toml.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<std::path::PathBuf>,
}
