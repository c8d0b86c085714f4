//! `sluicegate check`: everything that can be known of a configuration before
//! it runs.

use std::io::{self, Write};
use std::process::ExitCode;

use super::ConfigArg;
use crate::config::{
    BusSource, Config, ConfigError, DestinationSettings, Selection, StreamEntry, StreamSettings,
};

/// Check the configuration and tell all that is wrong with it
///
/// Reads sluicegate.toml, every file in streams/ and every file that they name: lists of keys, secrets,
/// certificates, scripts. Nothing is sent or changed.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluicegate check
  sluicegate check --config /etc/sluicegate/sluicegate.toml

Exit status:
  0  nothing is wrong; one line per stream says what it does
  1  something is wrong; standard error says all of it
  2  the command line is wrong")]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
}

/// Runs the command.
pub async fn check(args: CheckArgs) -> ExitCode {
    let config = match Config::check(args.config.config.as_deref()) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}\n\n{}", sum(errors.0.len()));
            return ExitCode::FAILURE;
        }
    };
    let errors: Vec<ConfigError> = config.stream_errors().cloned().collect();
    // A closed standard output, as of `| head`, is no fault of the configuration.
    let _ = write_report(&config, &mut io::stdout().lock());
    if errors.is_empty() {
        return ExitCode::SUCCESS;
    }
    for error in &errors {
        eprintln!("\n{error}");
    }
    eprintln!("\n{}", sum(errors.len()));
    ExitCode::FAILURE
}

fn sum(errors: usize) -> String {
    match errors {
        1 => "1 error".to_owned(),
        n => format!("{n} errors"),
    }
}

/// What the configuration does: the bus, then a table of the streams.
fn write_report(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let bus = match &config.bus.source {
        BusSource::Mqtt(url) => url.to_string(),
        BusSource::Embedded { listen } => format!("embedded on {listen}"),
    };
    let admin = config.admin.as_ref().map_or_else(|| "off".to_owned(), |admin| admin.listen.to_string());
    writeln!(out, "config  {}", config.path.display())?;
    writeln!(out, "bus     {bus} as {}", config.bus.client_id)?;
    writeln!(out, "admin   {admin}")?;
    writeln!(out, "data    {}\n", config.data.display())?;
    if config.streams.is_empty() {
        return writeln!(out, "no streams: {} has no *.toml file", config.stream_folder().display());
    }
    let mut rows =
        vec![["STREAM", "TOPICS", "KEY", "SERVES", "SCRIPT", "DESTINATION", "LANES"].map(str::to_owned)];
    for entry in &config.streams {
        rows.push(match entry {
            StreamEntry::Ready(settings) => row(settings),
            StreamEntry::Unusable { name, errors } => {
                let mut row = [const { String::new() }; 7];
                row[0].clone_from(name);
                row[1] = format!("blocked: {}", sum(errors.len()));
                row
            }
        });
    }
    write_table(&rows, out)
}

fn row(settings: &StreamSettings) -> [String; 7] {
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
    [
        settings.name.clone(),
        topics,
        settings.key.to_string(),
        serves,
        settings.script.source.to_string(),
        format!("{} {}", settings.destination.type_name(), address(&settings.destination)),
        settings.delivery.lanes.to_string(),
    ]
}

/// Where a destination is, without a query, which may hold a token.
fn address(settings: &DestinationSettings) -> String {
    match settings {
        DestinationSettings::AwsIot(aws) => aws.access.url.to_string(),
        DestinationSettings::ThingsBoard(board) => board.access.url.to_string(),
        DestinationSettings::Mqtt(mqtt) => mqtt.access.url.to_string(),
        DestinationSettings::Wialon(wialon) if wialon.host.contains(':') => {
            format!("tcp://[{}]:{}", wialon.host, wialon.port)
        }
        DestinationSettings::Wialon(wialon) => format!("tcp://{}:{}", wialon.host, wialon.port),
        DestinationSettings::Http(http) => {
            let mut url = http.url.clone();
            url.set_query(None);
            url.to_string()
        }
    }
}

/// Left-aligned columns, two spaces apart.
fn write_table(rows: &[[String; 7]], out: &mut dyn Write) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
