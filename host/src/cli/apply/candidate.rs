//! Everything that an apply would take over, read and checked.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use crate::cli::check;
use crate::config::{Config, ConfigError, ConfigErrors, Meanwhile, StreamEntry, StreamSettings};
use crate::script::Engine;

/// Scripts that are compiled at a time.
const AT_A_TIME: usize = 8;

/// What the files say.
pub struct Candidate {
    /// Every stream, in the order of the names.
    pub files: Vec<Arc<StreamSettings>>,
    /// Keys of `sluicegate.toml` that differ from the configuration that was
    /// read at the start.
    pub restart: Vec<String>,
}

impl Candidate {
    /// Reads the files of this configuration anew and checks them as
    /// `sluicegate check` does, scripts included. All that is wrong, if
    /// anything is.
    pub async fn read(config: &Config, engine: &Engine) -> Result<Self, ConfigErrors> {
        let again = config.clone();
        let read = move || (again.changed_since(), again.check_streams());
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
        let refused: Vec<Vec<ConfigError>> = stream::iter(files.clone())
            .map(|settings| {
                let engine = engine.clone();
                async move { check::try_script(&settings, &engine).await }
            })
            .buffered(AT_A_TIME)
            .collect()
            .await;
        errors.extend(refused.into_iter().flatten());
        if errors.is_empty() {
            return Ok(Self { files, restart });
        }
        errors.iter_mut().for_each(|error| error.meanwhile = Meanwhile::NothingChanges);
        Err(ConfigErrors(errors))
    }
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
