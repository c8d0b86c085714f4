//! `sluicegate check`: every error of a configuration that can be found before
//! it runs.

use std::io::{self, Write};
use std::process::ExitCode;

use bus::BusSource;
use futures_util::stream::{self, StreamExt};
use message::{Selection, unix_millis};
use script::Engine;
use script::compile::Compilation;
use settings::{Config, StreamEntry, StreamSettings, Unusable, certificates};
use settings_reader::{ConfigError, ConfigErrors, Expiry, Meanwhile, SOON};

use super::table::{Cell, Column, Table};
use crate::config_arg::ConfigArg;

/// Scripts that are compiled, or destinations that are tried, at a time.
const AT_A_TIME: usize = 8;

/// Check the configuration and report every error
///
/// Reads sluicegate.toml, every file in streams/ and every file that they name: key lists, secrets,
/// certificates. Compiles every script and passes its settings to it. Sends and changes nothing.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluicegate check
  sluicegate check --connect --config /etc/sluicegate/sluicegate.toml

Exit status:
  0  no errors; one line per stream. Standard error warns about certificates
     that expire within 30 days
  1  errors; standard error lists all of them
  2  invalid command line")]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Also connect to the bus and every destination: name, address, TLS, login
    ///
    /// Uses separate client ids and publishes nothing, so a running gateway is not disturbed. Needs a valid
    /// sluicegate.toml.
    #[arg(long)]
    connect: bool,
}

/// A stream and its errors.
struct Finding<'c> {
    entry: &'c StreamEntry,
    errors: Vec<ConfigError>,
}

/// Runs the command.
pub async fn check(args: CheckArgs) -> ExitCode {
    let checked = Config::check(args.config.config.as_deref());
    // Only one instance of each script exists at a time.
    let engine = match Engine::with(2 * u32::try_from(AT_A_TIME).unwrap_or(u32::MAX), Compilation::isolated())
    {
        Ok(engine) => engine,
        Err(error) => {
            if let Err(unusable) = checked {
                eprintln!("{}\n", unusable.errors);
            }
            eprintln!("sluicegate: cannot run scripts on this machine: {error}");
            return ExitCode::FAILURE;
        }
    };
    let config = match checked {
        Ok(config) => config,
        Err(unusable) => {
            let errors = all_errors(unusable, &engine).await;
            eprintln!("{errors}\n\n{}", sum(errors.0.len()));
            if args.connect {
                eprintln!("no connection was tried: correct sluicegate.toml first");
            }
            return ExitCode::FAILURE;
        }
    };
    let bus = if args.connect { try_bus(&config).await } else { no_broker(&config) };
    let findings: Vec<Finding<'_>> = stream::iter(&config.streams)
        .map(|entry| find(entry, &engine, args.connect))
        .buffered(AT_A_TIME)
        .collect()
        .await;
    // A closed standard output (`| head`) is not an error of the configuration.
    let _ = write_report(&config, &findings, &mut io::stdout().lock());
    for warning in expiring(&config) {
        eprintln!("\nwarning: {warning}");
    }
    let errors: Vec<ConfigError> =
        bus.into_iter().chain(findings.into_iter().flat_map(|f| f.errors)).collect();
    if errors.is_empty() {
        return ExitCode::SUCCESS;
    }
    for error in &errors {
        eprintln!("\n{error}");
    }
    eprintln!("\n{}", sum(errors.len()));
    ExitCode::FAILURE
}

/// Adds the errors of the scripts to those of an invalid `sluicegate.toml`.
async fn all_errors(unusable: Unusable, engine: &Engine) -> ConfigErrors {
    let Unusable { errors: ConfigErrors(mut errors), scripts } = unusable;
    let of_scripts: Vec<Vec<ConfigError>> = stream::iter(&scripts)
        .map(|script| gateway::try_script_alone(script, engine))
        .buffered(AT_A_TIME)
        .collect()
        .await;
    for mut error in of_scripts.into_iter().flatten() {
        error.meanwhile = Meanwhile::NothingRuns;
        errors.push(error);
    }
    ConfigErrors(errors)
}

/// Warnings about certificates that have expired or soon will. Not errors:
/// connecting shows whether they still work.
fn expiring(config: &Config) -> Vec<String> {
    let now = unix_millis() / 1000;
    let files = certificates(&config.bus, &config.streams);
    let read = files.iter().filter_map(|file| Some((file, Expiry::read(file).ok().flatten()?)));
    read.filter(|(_, expiry)| expiry.at < now + SOON)
        .map(|(file, expiry)| expiry.told(file, now).to_string())
        .collect()
}

fn sum(errors: usize) -> String {
    match errors {
        1 => "1 error".to_owned(),
        n => format!("{n} errors"),
    }
}

async fn find<'c>(entry: &'c StreamEntry, engine: &Engine, connect: bool) -> Finding<'c> {
    let mut errors = match entry {
        StreamEntry::Unusable { errors, .. } => errors.clone(),
        StreamEntry::Ready(_) => Vec::new(),
    };
    if let Some(script) = entry.script() {
        errors.extend(gateway::try_script_alone(&script, engine).await);
    }
    if let StreamEntry::Ready(settings) = entry
        && connect
    {
        errors.extend(try_destination(settings).await);
    }
    Finding { entry, errors }
}

/// Connects to the stream's destination and hangs up.
async fn try_destination(settings: &StreamSettings) -> Option<ConfigError> {
    let destination = settings.destination.build();
    // The lane after the last: the same client id would end the connection of
    // a gateway that is running.
    let fault = destination.prove(settings.delivery.lanes).await.err()?;
    Some(ConfigError::found_later(
        &settings.path,
        &["destination"],
        fault.reason,
        format!("the destination at {} accepts the gateway", settings.destination.address()),
        Meanwhile::StreamRetries(settings.name.clone()),
    ))
}

/// A lean build has no broker inside.
fn no_broker(config: &Config) -> Option<ConfigError> {
    let missing = matches!(config.bus.source, BusSource::Embedded { .. }) && !bus::embedded::AVAILABLE;
    missing.then(|| {
        let what = "this build has no embedded broker".to_owned();
        let expected = "the address of a broker, such as \"mqtt://127.0.0.1:1883\"".to_owned();
        ConfigError::found_later(&config.path, &["bus"], what, expected, Meanwhile::NothingRuns)
    })
}

/// Connects to the bus under another client id, and so without touching the
/// session with its messages.
async fn try_bus(config: &Config) -> Option<ConfigError> {
    let reason = bus::try_login(&config.bus).await.err()?;
    Some(ConfigError::found_later(
        &config.path,
        &["bus"],
        reason,
        format!("the broker at {} accepts the gateway", address_of_bus(config)),
        Meanwhile::BusRetries,
    ))
}

fn address_of_bus(config: &Config) -> String {
    match &config.bus.source {
        BusSource::Mqtt(url) => url.to_string(),
        BusSource::Embedded { listen } => format!("embedded on {listen}"),
    }
}

/// What the configuration does: the bus, then a table of the streams.
fn write_report(config: &Config, findings: &[Finding<'_>], out: &mut dyn Write) -> io::Result<()> {
    let bus = address_of_bus(config);
    let admin = config.admin.as_ref().map_or_else(|| "off".to_owned(), |admin| admin.listen.to_string());
    writeln!(out, "config  {}", config.path.display())?;
    writeln!(out, "bus     {bus} as {}", config.bus.client_id)?;
    writeln!(out, "admin   {admin}")?;
    writeln!(out, "data    {}\n", config.data.display())?;
    if findings.is_empty() {
        return writeln!(out, "no streams: {} has no *.toml file", config.stream_folder().display());
    }
    let titles = ["STREAM", "TOPICS", "KEY", "SERVES", "SCRIPT", "DESTINATION", "LANES"];
    let mut table = Table::new(titles.map(Column::Left));
    for finding in findings {
        table.row(match finding.entry {
            StreamEntry::Ready(settings) if finding.errors.is_empty() => row(settings),
            StreamEntry::Ready(settings) => failed_row(&settings.name, finding.errors.len()),
            StreamEntry::Unusable { name, .. } => failed_row(name, finding.errors.len()),
        });
    }
    table.write(out, None)
}

fn failed_row(name: &str, errors: usize) -> Vec<Cell> {
    vec![name.into(), format!("({})", sum(errors)).into()]
}

fn row(settings: &StreamSettings) -> Vec<Cell> {
    let topics = match &settings.topics[..] {
        [topic] => topic.to_string(),
        [topic, rest @ ..] => format!("{topic} +{}", rest.len()),
        [] => String::new(),
    };
    let serves = match &settings.selection {
        None => "all".to_owned(),
        Some(Selection::Only(keys)) => format!("only {}", keys.len()),
        Some(Selection::Except(keys)) => format!("all but {}", keys.len()),
    };
    let destination = &settings.destination;
    vec![
        (&settings.name).into(),
        topics.into(),
        settings.key.to_string().into(),
        serves.into(),
        settings.script.source.to_string().into(),
        format!("{} {}", destination.type_name(), destination.address()).into(),
        settings.delivery.lanes.to_string().into(),
    ]
}

#[cfg(test)]
mod tests {
    use destination::KINDS;

    /// The kinds know their adapters by name only.
    #[test]
    fn every_kind_has_an_embedded_adapter_that_serves_it() {
        for kind in KINDS {
            let adapter = adapters::official(kind.adapter).unwrap();
            assert!(adapter.manifest.serves(kind.name), "{} for {}", kind.adapter, kind.name);
        }
        for adapter in adapters::all() {
            for served in &adapter.manifest.destinations {
                assert!(KINDS.iter().any(|kind| kind.name == served), "{}: {served}", adapter.manifest.name);
            }
        }
    }
}
