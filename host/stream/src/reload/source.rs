//! Where the script of a stream comes from, and what a new version has to pass.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use journal::Amount;
use script::{Recipe, Tables};
use watch::{Changes, Watch};

use super::generation::GuardWindow;
use super::rollback;
use super::verdict::Refusal;
use super::versions::Versions;
use crate::code::Code;

/// Where the script of a stream comes from.
pub struct ScriptSource {
    /// Where it is read from: a path, or `adapter` and a name. A stream whose
    /// source is another one than before begins anew.
    pub origin: String,
    /// The files that the recipe depends on: the script's own, unless the binary
    /// brings it along, and its tables'.
    pub paths: Vec<PathBuf>,
    /// Where each of its tables is read from, by their names: a file, and which
    /// columns of it. A table that is read from elsewhere than before is another.
    pub tables: BTreeMap<String, String>,
    /// Reads the script and its tables.
    pub files: Arc<dyn ScriptFiles>,
    /// Whether new bytes are taken automatically, or only by order.
    pub follow: bool,
    /// Notices that the files have changed; `None` where nothing watches them.
    pub watch: Option<Watch>,
    /// Where accepted versions are kept; none: nowhere.
    pub versions: Option<Versions>,
    /// What a new version has to pass.
    pub rules: ReloadRules,
}

/// Reads the script of a stream. Its methods block; their errors are for the
/// operator.
pub trait ScriptFiles: Send + Sync {
    /// Reads the bytes of the script.
    fn read(&self) -> Result<Bytes, String>;

    /// The recipe of these bytes. Reads the tables that are not `known`.
    fn recipe(&self, wasm: Bytes, known: Option<Tables>) -> Result<Recipe, String>;
}

/// What a new version of a script has to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadRules {
    /// Messages that it may reject although the old one maps them (default 0).
    pub max_new_rejections: usize,
    /// The latest messages that both versions map (default 1,000 and 4 MiB).
    pub compared: Amount,
    /// How long its own cases may take (default 30 s).
    pub cases: Duration,
    /// How long it is on probation.
    pub guard: GuardWindow,
}

// === impl ReloadRules ===

impl Default for ReloadRules {
    fn default() -> Self {
        Self {
            max_new_rejections: 0,
            compared: Amount { messages: 1_000, bytes: 4 << 20 },
            cases: Duration::from_secs(30),
            guard: GuardWindow::default(),
        }
    }
}

// === impl ScriptSource ===

impl ScriptSource {
    /// The changes of its files, if there are any and somebody notices.
    pub(crate) fn changes(&self) -> Option<Changes> {
        self.watch.as_ref().filter(|_| !self.paths.is_empty()).map(|watch| watch.paths(self.paths.clone()))
    }

    /// The recipe of these bytes and tables, or of what the source has now. What
    /// is read comes with it.
    pub(super) async fn recipe(
        self: &Arc<Self>,
        wasm: Option<Bytes>,
        tables: Option<Tables>,
    ) -> Result<Recipe, (Code, Refusal)> {
        let source = self.clone();
        let read = move || {
            let wasm = match wasm {
                Some(wasm) => wasm,
                None => {
                    source.files.read().map_err(|error| (Code::ScriptMissing, Refusal::Unreadable(error)))?
                }
            };
            source
                .files
                .recipe(wasm, tables)
                .map_err(|error| (Code::ScriptInvalid, Refusal::Unreadable(error)))
        };
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|failed| Err((Code::ScriptMissing, Refusal::Unreadable(failed.to_string()))))
    }

    /// Asks the folder of the accepted versions; `unkept` where there is none.
    pub(super) async fn versions<T: Send + 'static>(
        self: &Arc<Self>,
        unkept: T,
        ask: impl FnOnce(&Versions) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let Some(versions) = self.versions.clone() else { return Ok(unkept) };
        rollback::ask(versions, ask).await
    }
}
