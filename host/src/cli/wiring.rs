//! From settings to the parts that run: the one place that knows both.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::bus::Route;
use crate::config::{
    self, Config, DeliverySettings, DestinationSettings, Rate, ScriptSettings, ScriptSource, StreamEntry,
    StreamSettings,
};
use crate::destination::Destination;
use crate::destination::aws_iot::AwsIotDestination;
use crate::destination::http::HttpDestination;
use crate::destination::mqtt::MqttDestination;
use crate::destination::thingsboard::ThingsBoardDestination;
use crate::destination::wialon::WialonDestination;
use crate::journal::{Journal, OnFull, OpenError, Quota, ReadRules, StreamIndex, StreamQuota};
use crate::script::{Limits, Recipe, adapter};
use crate::stream::reload::versions::Versions;
use crate::stream::{self, Pressure, RateLimit, RateLimits, ReloadHandle, ReloadRules, Stream, StreamStatus};

/// The destination that the settings describe.
pub fn destination(settings: &DestinationSettings) -> Arc<dyn Destination> {
    match settings.clone() {
        DestinationSettings::AwsIot(settings) => Arc::new(AwsIotDestination::new(settings)),
        DestinationSettings::ThingsBoard(settings) => Arc::new(ThingsBoardDestination::new(settings)),
        DestinationSettings::Wialon(settings) => Arc::new(WialonDestination::new(settings)),
        DestinationSettings::Http(settings) => Arc::new(HttpDestination::new(settings)),
        DestinationSettings::Mqtt(settings) => Arc::new(MqttDestination::new(settings)),
    }
}

/// Where a destination is, without a query, which may hold a token.
pub fn address(settings: &DestinationSettings) -> String {
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

/// What the script may use: the engine's defaults where the file is silent.
pub fn limits(settings: &ScriptSettings) -> Limits {
    let defaults = Limits::default();
    Limits {
        time: settings.limits.time.unwrap_or(defaults.time),
        memory: settings.limits.memory.unwrap_or(defaults.memory),
        ..defaults
    }
}

/// The name of a script in logs and tables: the adapter's, or the file's.
pub fn script_name(source: &ScriptSource) -> String {
    match source {
        ScriptSource::Official(name) => name.clone(),
        ScriptSource::File(path) => path
            .file_stem()
            .map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned()),
    }
}

/// The bytes of a script; an error for a person.
pub fn read_script(source: &ScriptSource) -> Result<Bytes, String> {
    match source {
        ScriptSource::Official(name) => match adapter::official(name) {
            Some(adapter) => Ok(adapter.wasm.into()),
            None => Err(format!("there is no official adapter `{name}`")),
        },
        ScriptSource::File(path) => {
            std::fs::read(path).map(Into::into).map_err(|e| format!("{}: {e}", path.display()))
        }
    }
}

/// Opens the journal for every stream that has a file: one whose file is wrong
/// keeps its messages, too.
pub async fn open_journal(config: &Config) -> Result<Journal, OpenError> {
    let quota = |name: &str, delivery: &DeliverySettings| StreamQuota {
        name: name.to_owned(),
        quota: delivery.quota,
        live_first: delivery.live_first,
    };
    let streams = config.streams.iter().map(|entry| match entry {
        StreamEntry::Ready(stream) => quota(&stream.name, &stream.delivery),
        // What its file says about a limit is not known: nothing expires, and
        // nothing comes in that could be too much.
        StreamEntry::Unusable { name, .. } => StreamQuota {
            name: name.clone(),
            quota: Quota { max_backlog: u64::MAX, on_full: OnFull::Block },
            live_first: false,
        },
    });
    let streams = streams.collect();
    let settings = config.journal.clone();
    match tokio::task::spawn_blocking(move || Journal::open(&settings, streams)).await {
        Ok(opened) => opened,
        Err(failed) => Err(OpenError::Failed(failed.to_string())),
    }
}

/// Which messages the stream wants.
pub fn route(index: StreamIndex, settings: &StreamSettings) -> Route {
    Route {
        stream: index,
        filters: settings.topics.clone(),
        key: settings.key.clone(),
        selection: settings.selection.clone(),
    }
}

/// The rates that streams share, by the names of the groups.
pub type RateLimitGroups = BTreeMap<String, Arc<RateLimit>>;

/// The groups of a configuration.
pub fn rate_limit_groups(groups: &config::RateLimitGroups) -> RateLimitGroups {
    groups.iter().map(|(name, rate)| (name.clone(), rate_limit(*rate))).collect()
}

fn rate_limit(rate: Rate) -> Arc<RateLimit> {
    Arc::new(RateLimit::new(rate.interval()))
}

/// What slows the stream down.
fn pressure(settings: &DeliverySettings, groups: &RateLimitGroups) -> Pressure {
    let own = settings.rate_limit.map(rate_limit);
    let shared = settings.rate_limit_group.as_ref().and_then(|name| groups.get(name).cloned());
    Pressure {
        queue_ttl: settings.queue_ttl,
        rate_limits: RateLimits(own.into_iter().chain(shared).collect()),
        read: ReadRules {
            live_first: settings.live_first,
            backlog_rate: settings.backlog_rate_limit.map(Rate::per_second),
        },
        conflate: settings.conflate,
        ..Pressure::default()
    }
}

/// The stream, ready to run, and the handle of its script.
pub fn stream(
    index: StreamIndex,
    settings: &StreamSettings,
    groups: &RateLimitGroups,
    scripts: &Scripts,
    status: Arc<StreamStatus>,
) -> (Stream, ReloadHandle) {
    let (handle, orders) = ReloadHandle::new();
    let route = route(index, settings);
    let stream = Stream {
        name: settings.name.clone(),
        index,
        key: settings.key.clone(),
        lanes: settings.delivery.lanes,
        batch: (settings.delivery.batch_messages, settings.delivery.batch_bytes),
        pressure: pressure(&settings.delivery, groups),
        destination: destination(&settings.destination),
        script: script_source(&settings.script, scripts),
        takes: Arc::new(move |message| route.takes(message)),
        orders,
        status,
    };
    (stream, handle)
}

/// What the scripts of all streams share.
#[derive(Clone, Debug)]
pub struct Scripts {
    /// The accepted ones.
    pub versions: Option<Versions>,
    /// What a new one has to stand.
    pub rules: ReloadRules,
}

/// The accepted scripts in the data folder.
pub async fn scripts(config: &Config) -> std::io::Result<Scripts> {
    let folder = config.data.join("scripts");
    let opened = tokio::task::spawn_blocking(move || Versions::open(folder)).await;
    let versions = opened.unwrap_or_else(|failed| Err(std::io::Error::other(failed)))?;
    Ok(Scripts { versions: Some(versions), rules: ReloadRules::default() })
}

fn script_source(settings: &ScriptSettings, scripts: &Scripts) -> stream::ScriptSource {
    let source = settings.source.clone();
    let name = script_name(&source);
    let (limits, settings) = (limits(settings), settings.settings.clone());
    stream::ScriptSource {
        origin: match &source {
            ScriptSource::Official(name) => format!("adapter {name}"),
            ScriptSource::File(path) => path.display().to_string(),
        },
        // What the binary brings along changes with the binary, and then only
        // when somebody says so.
        follow: matches!(source, ScriptSource::File(_)),
        read: Box::new(move || read_script(&source)),
        recipe: Box::new(move |wasm| {
            Ok(Recipe { settings: settings.clone(), limits: limits.clone(), ..Recipe::new(&name, wasm) })
        }),
        versions: scripts.versions.clone(),
        rules: scripts.rules,
    }
}
