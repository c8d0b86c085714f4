//! From settings to the parts that run: the one place that knows both.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bus::Route;
use bytes::Bytes;
use journal::{Amount, Journal, OnFull, OpenError, Quota, ReadRules, StreamIndex, StreamQuota};
use message::Takes;
use script::schema::SettingsError;
use script::{Limits, Package, PackageError, Recipe, TableSettings, Tables};
use serde_json::Value;
use settings::{
    self, Config, DeliverySettings, Rate, ScriptSettings, ScriptSource, StreamEntry, StreamSettings,
};
use stream::reload::versions::Versions;
use stream::{
    self, Clock, Pressure, RateLimit, RateLimits, ReloadHandle, ReloadRules, ScriptFiles, Stream,
    StreamStatus,
};
use watch::Watch;

/// What the script may use: the engine's defaults where the file is silent.
pub fn limits(settings: &ScriptSettings) -> Limits {
    let defaults = Limits::default();
    Limits {
        time: settings.limits.time.unwrap_or(defaults.time),
        memory: settings.limits.memory.unwrap_or(defaults.memory),
        output_bytes: settings.limits.output.unwrap_or(defaults.output_bytes),
        state_bytes: settings.limits.state.unwrap_or(defaults.state_bytes),
        log_lines_per_second: settings.limits.log_lines.unwrap_or(defaults.log_lines_per_second),
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

/// The script with what its author says of it, for destinations of type
/// `kind`; an error for a person. Blocks.
pub fn read_package(source: &ScriptSource, kind: &str) -> Result<Package, String> {
    let package = match source {
        ScriptSource::Official(name) => {
            adapters::package(name).ok_or_else(|| format!("there is no official adapter `{name}`"))?
        }
        ScriptSource::File(path) => package_at(path)?,
    };
    serving(package, source, kind)
}

/// The package, if it is one for destinations of type `kind`.
fn serving(package: Package, source: &ScriptSource, kind: &str) -> Result<Package, String> {
    match &package.manifest {
        Some(manifest) if !manifest.serves(kind) => Err(format!(
            "{source}: the adapter `{}` is for destinations of type {}, not `{kind}`",
            manifest.name,
            manifest.destinations.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ")
        )),
        _ => Ok(package),
    }
}

/// Whether an official adapter is of the version that a stream is pinned to:
/// after an upgrade the binary may bring along another one.
fn check_pin(package: &Package, pin: Option<u32>) -> Result<(), String> {
    match (pin, &package.manifest) {
        (Some(pin), Some(manifest)) if manifest.version.major != pin => Err(format!(
            "`{name}@{pin}` is not available: this gateway includes version {}",
            manifest.version,
            name = manifest.name
        )),
        _ => Ok(()),
    }
}

/// Whether a version of an official adapter that was accepted is one that the
/// stream may have now: the pin may be a newer one.
fn check_pinned(package: &Package, source: &ScriptSource, pin: Option<u32>) -> Result<(), String> {
    match (pin, &package.manifest, source) {
        (Some(pin), Some(manifest), ScriptSource::Official(name))
            if manifest.name == *name && manifest.version.major != pin =>
        {
            Err(format!(
                "this is version {} of `{name}`, and the stream is pinned to `{name}@{pin}`",
                manifest.version
            ))
        }
        _ => Ok(()),
    }
}

/// Where a table is read from: what it is known by.
fn origin_of_table(table: &TableSettings) -> String {
    let column = |column: &Option<String>| format!("{:?}", column.as_deref().unwrap_or_default());
    let (key, value) = (column(&table.columns.key), column(&table.columns.value));
    format!("{} {key} {value}", spelled(&table.file).display())
}

/// A path that says the same wherever the gateway is started: what a stream's
/// script is known by. Not to be opened: behind a link `..` leads elsewhere.
fn spelled(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut spelled = PathBuf::new();
    for part in whole.components() {
        if part == Component::ParentDir {
            spelled.pop();
        } else {
            spelled.push(part);
        }
    }
    spelled
}

/// What is to be loaded of a package: its settings checked and complete.
pub fn recipe(
    package: &Package,
    name: &str,
    settings: &Value,
    limits: Limits,
    tables: Tables,
) -> Result<Recipe, SettingsError> {
    Ok(Recipe {
        settings: package.settings(settings)?,
        limits,
        tables,
        state_version: package.state_version(),
        ..Recipe::new(name, package.wasm.clone())
    })
}

/// The package in a file or folder; the error names it. Blocks.
pub fn package_at(path: &Path) -> Result<Package, String> {
    Package::read(path).map_err(|error| match error {
        // They name the file already.
        PackageError::Unreadable { .. } | PackageError::Folder(_) | PackageError::NotBuilt { .. } => {
            error.to_string()
        }
        error => format!("{}: {error}", path.display()),
    })
}

/// What the journal has to know of streams that have a file: one whose file is
/// wrong keeps its messages, too.
pub fn quotas<'a>(streams: impl IntoIterator<Item = &'a StreamEntry>) -> Vec<StreamQuota> {
    let quota = |entry: &StreamEntry| match entry {
        StreamEntry::Ready(stream) => StreamQuota {
            name: stream.name.clone(),
            quota: stream.delivery.quota,
            live_first: stream.delivery.live_first,
            conflates: stream.delivery.conflate.is_some(),
        },
        // What its file says about a limit is not known: nothing expires, and
        // nothing comes in that could be too much.
        StreamEntry::Unusable { name, .. } => StreamQuota {
            name: name.clone(),
            quota: Quota { max_backlog: u64::MAX, on_full: OnFull::Block },
            live_first: false,
            conflates: false,
        },
    };
    streams.into_iter().map(quota).collect()
}

/// Opens the journal for the streams of a configuration.
pub async fn open_journal(config: &Config) -> Result<Journal, OpenError> {
    let streams = quotas(&config.streams);
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

/// The messages that the stream takes.
pub fn takes(settings: &StreamSettings) -> Takes {
    Takes {
        filters: settings.topics.clone(),
        key: settings.key.clone(),
        selection: settings.selection.clone(),
    }
}

/// The rates that streams share, by the names of the groups.
pub type RateLimitGroups = BTreeMap<String, Arc<RateLimit>>;

/// The groups of a configuration.
pub fn rate_limit_groups(groups: &settings::RateLimitGroups) -> RateLimitGroups {
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
    let stream = Stream {
        name: settings.name.clone(),
        index,
        key: settings.key.clone(),
        lanes: settings.delivery.lanes,
        batch: Amount { messages: settings.delivery.batch_messages, bytes: settings.delivery.batch_bytes },
        pressure: pressure(&settings.delivery, groups),
        destination: settings.destination.build(),
        script: script_source(settings, scripts),
        takes: takes(settings),
        orders,
        status,
        watch: scripts.watch.clone(),
        clock: Clock::default(),
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
    /// Notices that their files have changed.
    pub watch: Watch,
}

/// The folder of the accepted scripts, in the data folder.
const SCRIPTS: &str = "scripts";

/// The accepted scripts in the data folder.
pub async fn versions(config: &Config) -> std::io::Result<Versions> {
    let folder = config.data.join(SCRIPTS);
    let opened = tokio::task::spawn_blocking(move || Versions::open(folder)).await;
    opened.unwrap_or_else(|failed| Err(std::io::Error::other(failed)))
}

/// What the scripts of these streams share.
pub async fn scripts(config: &Config, watch: Watch) -> std::io::Result<Scripts> {
    let versions = versions(config).await?;
    Ok(Scripts { versions: Some(versions), rules: config.reload.rules, watch })
}

/// The accepted scripts in the data folder of a gateway that does not run, to
/// be read only.
pub async fn kept_scripts(config: &Config) -> std::io::Result<Scripts> {
    // Opening would make it.
    let there = config.data.join(SCRIPTS).is_dir();
    let versions = if there { Some(versions(config).await?) } else { None };
    Ok(Scripts { versions, rules: config.reload.rules, watch: Watch::new() })
}

/// Forgets what streams have run that the journal has forgotten: a stream that
/// gets such a name is a new one.
pub async fn forget_scripts(versions: Option<&Versions>, journal: &Journal) {
    let Some(versions) = versions.cloned() else { return };
    let journal = journal.clone();
    let known = move |name: &str| journal.stream(name).is_some() || journal.detached_stream(name).is_some();
    let kept = tokio::task::spawn_blocking(move || versions.keep_only(known)).await;
    if let Err(error) = kept.unwrap_or_else(|failed| Err(std::io::Error::other(failed))) {
        tracing::warn!(%error, "cannot delete the accepted scripts of removed streams");
    }
}

/// The files of a stream's script, as its settings name them.
struct Files {
    script: ScriptSettings,
    /// The type of the destination.
    kind: &'static str,
}

impl ScriptFiles for Files {
    fn read(&self) -> Result<Bytes, String> {
        let package = read_package(&self.script.source, self.kind)?;
        check_pin(&package, self.script.pin)?;
        Ok(package.wasm)
    }

    fn recipe(&self, wasm: Bytes, known: Option<Tables>) -> Result<Recipe, String> {
        let ScriptSettings { source, settings, pin, tables, .. } = &self.script;
        let package = Package::parse(wasm).map_err(|error| format!("{source}: {error}"))?;
        let package = serving(package, source, self.kind)?;
        check_pinned(&package, source, *pin)?;
        let known = known.unwrap_or_default();
        let tables = Tables::complete(tables, &known).map_err(|error| error.to_string())?;
        let name = package.manifest.as_ref().map_or_else(|| script_name(source), |m| m.name.clone());
        recipe(&package, &name, settings, limits(&self.script), tables)
            .map_err(|error| format!("{source}: {error}"))
    }
}

/// Where the script of a stream comes from.
pub fn script_source(stream: &StreamSettings, scripts: &Scripts) -> stream::ScriptSource {
    let script = &stream.script;
    let path = match &script.source {
        ScriptSource::Official(_) => None,
        ScriptSource::File(path) => Some(path.clone()),
    };
    stream::ScriptSource {
        origin: match &script.source {
            ScriptSource::Official(name) => format!("adapter {name}"),
            ScriptSource::File(path) => spelled(path).display().to_string(),
        },
        // An adapter of the binary changes with the binary, and then only by order.
        follow: path.is_some(),
        paths: path.into_iter().chain(script.tables.iter().map(|table| table.file.clone())).collect(),
        tables: script.tables.iter().map(|table| (table.name.clone(), origin_of_table(table))).collect(),
        files: Arc::new(Files { script: script.clone(), kind: stream.destination.type_name() }),
        watch: Some(scripts.watch.clone()),
        versions: scripts.versions.clone(),
        rules: scripts.rules,
    }
}
