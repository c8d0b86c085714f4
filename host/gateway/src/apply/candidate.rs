//! Everything that an apply would take over, read and checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::stream::reload::first::{Unfit, called};
use futures_util::stream::{self, StreamExt};
use script::{Engine, Tables};
use settings::{Config, ScriptSource, StreamEntry, StreamSettings};
use settings_reader::{ConfigError, ConfigErrors, Meanwhile};

use crate::wiring::{self, Scripts};

/// Scripts that are compiled at a time.
const AT_A_TIME: usize = 8;

/// What the files say.
pub struct Candidate {
    /// Every stream, in the order of the names.
    pub files: Vec<Arc<StreamSettings>>,
    /// What is to be told of the scripts of some streams, should they be
    /// started again.
    pub scripts: BTreeMap<String, String>,
    /// Keys of `sluicegate.toml` that differ from the configuration that was
    /// read at the start.
    pub restart: Vec<String>,
}

impl Candidate {
    /// Reads the files of this configuration anew and checks them as
    /// `sluicegate check` does, scripts included: those that the streams would
    /// run, which need not be those that their files name now. All that is
    /// wrong, if anything is. `had_streams`: whether any stream runs, or would.
    pub async fn read(
        config: &Config,
        had_streams: bool,
        engine: &Engine,
        scripts: &Scripts,
    ) -> Result<Self, ConfigErrors> {
        let again = config.clone();
        let read = move || (again.changed_since(), again.check_streams(had_streams));
        let (main, streams) = match tokio::task::spawn_blocking(read).await {
            Ok(read) => read,
            Err(failed) => {
                let what = format!("cannot be read: {failed}");
                let error = error(config, what, "readable files".to_owned());
                return Err(ConfigErrors(vec![error]));
            }
        };
        let mut errors = Vec::new();
        let restart = main.unwrap_or_else(|wrong| {
            errors.extend(wrong.0);
            Vec::new()
        });
        let streams = streams.unwrap_or_else(|wrong| {
            errors.push(*wrong);
            Vec::new()
        });
        let mut files = Vec::with_capacity(streams.len());
        for entry in streams {
            match entry {
                StreamEntry::Ready(settings) => files.push(settings),
                StreamEntry::Unusable { errors: wrong, .. } => errors.extend(wrong),
            }
        }
        let tried: Vec<_> =
            stream::iter(files.clone())
                .map(|settings| async move {
                    (settings.name.clone(), try_script(&settings, engine, scripts).await)
                })
                .buffered(AT_A_TIME)
                .collect()
                .await;
        let mut told = BTreeMap::new();
        for (name, outcome) in tried {
            match outcome {
                Ok(note) => told.extend(note.map(|note| (name, note))),
                Err(wrong) => errors.extend(wrong),
            }
        }
        if errors.is_empty() {
            return Ok(Self { files, scripts: told, restart });
        }
        errors.iter_mut().for_each(|error| error.meanwhile = Meanwhile::NothingChanges);
        Err(ConfigErrors(errors))
    }
}

/// Loads what a stream with these settings begins with, as the stream itself
/// does it; what is to be told of that.
async fn try_script(
    settings: &StreamSettings,
    engine: &Engine,
    scripts: &Scripts,
) -> Result<Option<String>, Vec<ConfigError>> {
    let wrong = |unfit: &Unfit| {
        let (what, expected) = (unfit.to_string(), "a script that can be run with this file".to_owned());
        let meanwhile = Meanwhile::NothingChanges;
        vec![ConfigError::found_later(&settings.path, &["script", "adapter"], what, expected, meanwhile)]
    };
    let source = Arc::new(wiring::script_source(settings, scripts));
    let (mut tables, mut goes_on, mut unfit) = (Tables::default(), false, None);
    if let Some(kept) = source.kept(&settings.name).await {
        tables = kept.tables.clone();
        match source.load(engine, Some(kept.wasm), kept.tables).await {
            Ok(_) => goes_on = true,
            Err(because) if because.with_the_file => unfit = Some((kept.accepted, because)),
            Err(because) => return Err(wrong(&because)),
        }
    }
    // A new adapter version of this binary waits for an update. A file is
    // the operator's, and nothing of his may be wrong.
    if goes_on && matches!(settings.script.source, ScriptSource::Official(_)) {
        return Ok(None);
    }
    let errors = crate::try_script(settings, engine).await;
    if !errors.is_empty() {
        return Err(errors);
    }
    if goes_on {
        return Ok(None);
    }
    let (script, _) = source.load(engine, None, tables).await.map_err(|because| wrong(&because))?;
    Ok(unfit.map(|(accepted, because)| {
        format!("{} takes the place of {}, unproven: {because}", script.label(), called(&accepted))
    }))
}

fn error(config: &Config, what: String, expected: String) -> ConfigError {
    ConfigError {
        file: config.stream_folder(),
        place: None,
        what,
        expected,
        meanwhile: Meanwhile::NothingChanges,
    }
}

/// More lanes than a gateway has room for that was started for fewer.
pub fn too_many_lanes(config: &Config, lanes: u64, room: u64) -> ConfigErrors {
    let what = format!("the streams have {lanes} lanes");
    let expected =
        format!("at most {room} until the gateway is started again: it makes room for lanes at the start");
    ConfigErrors(vec![error(config, what, expected)])
}
