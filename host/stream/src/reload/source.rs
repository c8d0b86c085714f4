//! Where a stream's script comes from, and what a new version of it has to
//! stand.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use script::{Recipe, Tables};
use watch::{Changes, Watch};

use super::verdict::Refusal;
use super::versions::Versions;
use super::way_back;
use crate::code::Code;
use crate::edition::GuardWindow;

/// How to come by a stream's script.
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
    /// Reads its bytes; an error for a person.
    pub read: Box<dyn Fn() -> Result<Bytes, String> + Send + Sync>,
    /// What is to be loaded, given the bytes; without tables it reads them, and so
    /// blocks. An error for a person.
    pub recipe: Box<dyn Fn(Bytes, Option<Tables>) -> Result<Recipe, String> + Send + Sync>,
    /// Whether new bytes are taken by themselves, or only on order.
    pub follow: bool,
    /// Notices that the files have changed; none: nobody does.
    pub watch: Option<Watch>,
    /// Where accepted versions are kept; none: nowhere.
    pub versions: Option<Versions>,
    /// What a new version has to stand.
    pub rules: ReloadRules,
}

/// What a new version of a script has to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadRules {
    /// Messages that it may reject although the old one maps them (default 0).
    pub max_new_rejections: usize,
    /// Latest messages that both map, and bytes of them (default 1,000, 4 MiB).
    pub compared: (usize, usize),
    /// How long its own cases may take (default 30 s).
    pub cases: Duration,
    /// How long it is on trial.
    pub guard: GuardWindow,
}

// === impl ReloadRules ===

impl Default for ReloadRules {
    fn default() -> Self {
        Self {
            max_new_rejections: 0,
            compared: (1_000, 4 << 20),
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
                None => (source.read)().map_err(|error| (Code::ScriptMissing, Refusal::Unreadable(error)))?,
            };
            (source.recipe)(wasm, tables).map_err(|error| (Code::ScriptInvalid, Refusal::Unreadable(error)))
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
        way_back::ask(versions, ask).await
    }
}
