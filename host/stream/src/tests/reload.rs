//! Scripts that change while the stream runs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use script::Tables;
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;

use super::durable::{open, stop};
use super::*;
use crate::reload::Refusal;
use crate::reload::versions::Versions;

/// A stream on a journal of its own, whose script can be written anew.
pub(super) struct Site {
    pub(super) folder: TempDir,
    versions: OnceLock<Versions>,
    pub(super) far: Arc<FarSide>,
    pub(super) files: Arc<Files>,
    /// Whether it is a file, and not an adapter of the binary.
    pub(super) follow: bool,
    origin: &'static str,
    rules: ReloadRules,
}

/// The files of the script.
#[derive(Default)]
pub(super) struct Files {
    /// `None`: it cannot be read.
    pub(super) wasm: Mutex<Option<Bytes>>,
    pub(super) state_version: Mutex<u32>,
    /// The table `names`; `None`: there is no table.
    pub(super) names: Mutex<Option<&'static str>>,
    pub(super) settings: Mutex<serde_json::Value>,
    door: Arc<Door>,
}

impl ScriptFiles for Files {
    fn read(&self) -> Result<Bytes, String> {
        self.wasm.lock().unwrap().clone().ok_or_else(|| "it is gone".to_owned())
    }

    fn recipe(&self, wasm: Bytes, known: Option<Tables>) -> Result<Recipe, String> {
        self.door.came.fetch_add(1, Ordering::SeqCst);
        drop(self.door.open.blocking_lock());
        let state_version = *self.state_version.lock().unwrap();
        let names = self.names.lock().unwrap().map(|csv| ("names", csv.as_bytes()));
        let read = || Tables::of_csv(names).map_err(|error| error.to_string());
        let tables = known.filter(|known| !known.is_empty()).map_or_else(read, Ok)?;
        let settings = self.settings.lock().unwrap().clone();
        Ok(Recipe { settings, state_version, tables, ..Recipe::new("mine", wasm) })
    }
}

/// Whoever has read a script passes through.
#[derive(Default)]
struct Door {
    open: Arc<tokio::sync::Mutex<()>>,
    came: AtomicUsize,
}

/// A door that is closed until this is dropped.
pub(super) struct Closed {
    _closed: OwnedMutexGuard<()>,
    door: Arc<Door>,
    came: usize,
}

/// Delivers every payload with its first byte replaced.
pub(super) fn stamps(letter: char) -> String {
    format!(
        "(local $i i32)
        (block $done
          (loop $next
            (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
            (i32.store8
              (i32.load offset=8 (i32.add (local.get $batch) (i32.mul (local.get $i) (i32.const 24))))
              (i32.const {}))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $next)))
        (call $pass (local.get $batch) (local.get $n))",
        u32::from(letter)
    )
}

/// As [`stamps`] does with `x`, and traps on what begins with `!`.
pub(super) const STAMPS_BUT_TRAPS_ON_MARK: &str = "
    (if (i32.eq (i32.const 33) (call $first (local.get $batch))) (then unreachable))
    (i32.store8 (i32.load offset=8 (local.get $batch)) (i32.const 120))
    (call $pass (local.get $batch) (local.get $n))";

impl Site {
    pub(super) fn new(transform: &str) -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
            versions: OnceLock::new(),
            far: FarSide::new(Mood::Accepts, 8),
            files: Arc::default(),
            follow: true,
            origin: "mine.wasm",
            rules: ReloadRules::default(),
        };
        site.write(transform);
        site
    }

    pub(super) fn write(&self, transform: &str) {
        *self.files.wasm.lock().unwrap() = Some(scripts::transform(transform).into());
    }

    pub(super) fn write_bytes(&self, wasm: &'static [u8]) {
        *self.files.wasm.lock().unwrap() = Some(Bytes::from_static(wasm));
    }

    /// Lets nobody get any further with a script for now.
    pub(super) async fn close(&self) -> Closed {
        let closed = self.files.door.open.clone().lock_owned().await;
        Closed {
            _closed: closed,
            door: self.files.door.clone(),
            came: self.files.door.came.load(Ordering::SeqCst),
        }
    }

    /// Lets nothing be written about the stream's versions, or again something.
    pub(super) fn break_record(&self, broken: bool) {
        // Where the file is written before it takes its place.
        let beside = self.folder.path().join("scripts").join("test.json.new");
        if broken {
            std::fs::create_dir(beside).unwrap();
        } else {
            std::fs::remove_dir(beside).unwrap();
        }
    }

    pub(super) fn versions(&self) -> &Versions {
        self.versions.get_or_init(|| Versions::open(self.folder.path().join("scripts")).unwrap())
    }

    /// The versions that were accepted, what runs last.
    pub(super) fn kept(&self) -> Vec<String> {
        self.versions().of("test").unwrap().into_iter().map(|accepted| accepted.version).collect()
    }

    pub(super) fn start(&self) -> Running {
        let source = ScriptSource {
            origin: self.origin.to_owned(),
            paths: Vec::new(),
            tables: BTreeMap::from([("names".to_owned(), "names.csv".to_owned())]),
            files: self.files.clone(),
            follow: self.follow,
            watch: None,
            versions: Some(self.versions().clone()),
            rules: self.rules,
        };
        let destination = Arc::new(FarSideDestination(self.far.clone()));
        start_stream(destination, open(&self.folder), Pressure::default(), source, self.far.clone(), 1)
    }
}

impl Site {
    /// The same, running its first script.
    async fn begun(&self) -> Running {
        let running = self.start();
        until(|| running.status.script().is_some()).await;
        running
    }
}

impl Closed {
    /// Waits until somebody stands before it.
    pub(super) async fn somebody_came(&self) {
        until(|| self.door.came.load(Ordering::SeqCst) > self.came).await;
    }
}

impl Running {
    /// Ends as a process that is killed does.
    pub(super) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        self.journal.close().await;
    }

    /// Gives an order that does not come to its end before `meanwhile` does.
    pub(super) async fn order_while<T>(
        &self,
        site: &Site,
        order: impl Future<Output = T>,
        meanwhile: impl Future<Output = ()>,
    ) -> T {
        let closed = site.close().await;
        let meanwhile = async move {
            closed.somebody_came().await;
            meanwhile.await;
        };
        tokio::join!(order, meanwhile).0
    }

    pub(super) fn version(&self) -> String {
        self.status.script().unwrap().1
    }
}

pub(super) fn version(transform: &str) -> String {
    script::Version::of(&scripts::transform(transform)).to_string()
}

#[tokio::test]
async fn a_new_version_takes_over_and_nothing_is_mapped_twice() {
    let site = Site::new(&stamps('a'));
    let running = site.start();
    running.deliver("-1").await;
    site.write(&stamps('b'));
    let reloaded = running.reloads.reload().await.unwrap();
    let comparison = reloaded.comparison.unwrap();
    assert_eq!((comparison.messages, comparison.differing), (1, 1));
    running.deliver("-2").await;
    assert_eq!(running.version(), version(&stamps('b')));
    // The same once more is nothing new.
    let again = running.reloads.reload().await.unwrap();
    assert_eq!((again.before.as_deref(), again.comparison), (Some(again.after.as_str()), None));
    assert_eq!(site.far.accepted(), ["a1", "b2"]);
    stop(running).await;
}

#[tokio::test]
async fn what_the_binary_brings_along_is_taken_when_somebody_says_so() {
    let site = Site { follow: false, ..Site::new(&stamps('a')) };
    let running = site.start();
    running.deliver("-1").await;
    site.write(&stamps('b'));
    assert!(!running.reloads.reload().await.unwrap().replaced);
    let compared = running.reloads.compare(None).await.unwrap();
    assert_eq!(
        (compared.replaced, compared.refusal, compared.comparison.unwrap().differing),
        (false, None, 1)
    );
    running.deliver("-2").await;
    assert!(running.reloads.update().await.unwrap().replaced);
    running.deliver("-3").await;
    assert_eq!(site.far.accepted(), ["a1", "a2", "b3"]);
    stop(running).await;
}

#[tokio::test]
async fn a_comparison_says_what_a_reload_would_refuse() {
    let site = Site::new(&stamps('a'));
    let running = site.start();
    running.deliver("!1").await;
    site.write(STAMPS_BUT_TRAPS_ON_MARK);
    let compared = running.reloads.compare(None).await.unwrap();
    let refused = running.reloads.reload().await.unwrap_err();
    assert_eq!(compared.refusal.unwrap(), refused.to_string());
    assert!(matches!(refused, Refusal::Fails { count: 1, of: 1, .. }), "{refused}");
    stop(running).await;
}

#[tokio::test]
async fn a_version_that_fails_on_trial_is_taken_back_and_loses_nothing() {
    let site = Site::new(&stamps('a'));
    let running = site.start();
    running.deliver("-1").await;
    site.write(STAMPS_BUT_TRAPS_ON_MARK);
    running.reloads.reload().await.unwrap();
    running.deliver("-2").await;
    running.deliver("!3").await;
    running.deliver("-4").await;
    assert_eq!(site.far.accepted(), ["a1", "x2", "a3", "a4"]);
    assert_eq!(running.counters().dead_lettered, 0);
    until(|| running.status.refused().is_some_and(|why| why.contains("was taken back: the script trapped")))
        .await;
    assert_eq!(running.version(), version(&stamps('a')));
    stop(running).await;

    // A restart runs what was good, although the file still has the other.
    let running = site.start();
    running.deliver("-5").await;
    assert_eq!(running.version(), version(&stamps('a')));
    stop(running).await;
}

#[tokio::test]
async fn a_message_that_the_old_version_fails_on_as_well_is_to_blame_itself() {
    let site = Site::new(TRAPS_ON_MARK);
    let running = site.start();
    site.write(STAMPS_BUT_TRAPS_ON_MARK);
    running.reloads.reload().await.unwrap();
    running.append(["!1".to_owned()]).await;
    running.until(|b| b.dead_lettered == 1).await;
    running.deliver("-2").await;
    assert_eq!(site.far.accepted(), ["x2"]);
    stop(running).await;
}

#[tokio::test]
async fn what_fails_on_messages_of_late_is_refused() {
    let site = Site::new(&stamps('a'));
    let running = site.start();
    running.deliver("!1").await;
    site.write(STAMPS_BUT_TRAPS_ON_MARK);
    let refusal = running.reloads.reload().await.unwrap_err();
    assert!(matches!(refusal, Refusal::Fails { count: 1, of: 1, .. }), "{refusal}");
    assert!(refusal.to_string().contains("`!1`"), "{refusal}");
    let public = running.status.refused().unwrap();
    assert!(
        public.contains("the first is number 1 of them: the script trapped") && !public.contains("!1"),
        "{public}"
    );
    site.write_bytes(b"half a fi");
    assert!(matches!(running.reloads.reload().await, Err(Refusal::Load(_))));
    *site.files.wasm.lock().unwrap() = None;
    assert_eq!(running.reloads.reload().await.unwrap_err().to_string(), "it is gone");
    running.deliver("-2").await;
    assert_eq!(site.far.accepted(), ["a1", "a2"]);
    stop(running).await;

    // The accepted version needs no file.
    let running = site.start();
    running.deliver("-3").await;
    assert_eq!(site.far.accepted().last().unwrap(), "a3");
    stop(running).await;
}

#[tokio::test]
async fn an_operator_goes_back_to_any_version_that_was_accepted() {
    let site = Site::new(&stamps('a'));
    let running = site.start();
    assert!(matches!(running.reloads.roll_back(None).await, Err(Refusal::NoVersion(_))));
    for letter in ['b', 'c'] {
        site.write(&stamps(letter));
        running.reloads.reload().await.unwrap();
    }
    running.reloads.roll_back(None).await.unwrap();
    assert_eq!(running.version(), version(&stamps('b')));
    running.reloads.roll_back(Some(version(&stamps('a')))).await.unwrap();
    running.deliver("-1").await;
    assert!(matches!(running.reloads.roll_back(Some("0000".into())).await, Err(Refusal::NoVersion(_))));
    assert_eq!(site.far.accepted(), ["a1"]);
    stop(running).await;
}

/// Delivers what the table `names` has for the payload of message 0.
const LOOKS_UP: &str = "
    (i64.store (i32.const 128) (i64.const 0x73656d616e))
    (call $lookup (i32.const 128) (i32.const 5)
      (i32.load offset=8 (local.get $batch)) (i32.load offset=12 (local.get $batch)) (i32.const 200))
    (i32.store offset=8 (local.get $batch) (i32.load (i32.const 204)))
    (i32.store offset=12 (local.get $batch) (i32.load (i32.const 208)))
    (call $pass (local.get $batch) (local.get $n))";

#[tokio::test]
async fn a_changed_table_is_a_new_version_and_a_broken_one_is_refused() {
    let site = Site::new(LOOKS_UP);
    let names = |csv| *site.files.names.lock().unwrap() = Some(csv);
    names("imei,id\n7,seven\n");
    let running = site.start();
    running.deliver("7").await;
    names("imei,id\n7,sept\n");
    let reloaded = running.reloads.reload().await.unwrap();
    assert_eq!(reloaded.comparison.unwrap().differing, 1);
    assert_ne!(reloaded.before.unwrap(), reloaded.after, "the names tell them apart");
    running.deliver("7").await;
    // Other bytes, and nothing else to look up.
    names("imei,id,note\n7,sept,x\n");
    assert_eq!(running.reloads.reload().await.unwrap().comparison, None);
    names("imei,id\n7,sept\n7,sieben\n");
    let refusal = running.reloads.reload().await.unwrap_err().to_string();
    assert!(refusal.contains("names.csv:3: the key \"7\" is in line 2 already"), "{refusal}");
    running.deliver("7").await;
    assert_eq!(site.far.accepted(), ["seven", "sept", "sept"]);
    stop(running).await;
}

#[tokio::test]
async fn comparing_changes_nothing() {
    let site = Site::new(&stamps('a'));
    let running = site.start();
    running.deliver("-1").await;
    let other = Bytes::from(scripts::transform(&stamps('b')));
    let compared = running.reloads.compare(Some(other)).await.unwrap();
    assert_eq!(compared.comparison.unwrap().differing, 1);
    let compared = running.reloads.compare(None).await.unwrap();
    assert_eq!(compared.comparison.unwrap().differing, 0);
    running.deliver("-2").await;
    assert_eq!(site.far.accepted(), ["a1", "a2"]);
    stop(running).await;
}

#[tokio::test]
async fn a_stream_that_its_script_has_blocked_goes_on_at_once_with_a_better_one() {
    let site = Site::new("unreachable");
    let running = site.start();
    running.append(numbered(12)).await;
    running.until(|b| b.dead_lettered == 9).await;
    until(|| running.status.state().code() == Some(Code::ScriptFault)).await;
    site.write(&stamps('b'));
    running.reloads.reload().await.unwrap();
    running.until(|b| b.delivered == 3).await;
    assert_eq!(running.status.state(), State::Running);
    stop(running).await;
}

#[tokio::test]
async fn a_script_without_a_file_is_loaded_when_it_is_ordered_to() {
    let site = Site::new(&stamps('a'));
    *site.files.wasm.lock().unwrap() = None;
    let running = site.start();
    until(|| running.status.state().code() == Some(Code::ScriptMissing)).await;
    assert!(matches!(running.reloads.compare(None).await, Err(Refusal::NoScript)));
    assert_eq!(running.reloads.reload().await.unwrap_err().to_string(), "it is gone");
    site.write(&stamps('a'));
    assert_eq!(running.reloads.reload().await.unwrap().before, None);
    running.deliver("-1").await;
    stop(running).await;
}

#[tokio::test]
async fn a_script_that_keeps_another_form_of_state_begins_with_none() {
    let site = Site::new(durable::RECALLS);
    let running = site.start();
    running.deliver("one").await;
    site.write(&format!("{} (nop)", durable::RECALLS.trim_start()));
    // A nop is another version of the same script.
    running.reloads.reload().await.unwrap();
    running.deliver("two").await;
    *site.files.state_version.lock().unwrap() = 1;
    running.reloads.reload().await.unwrap();
    running.deliver("three").await;
    assert_eq!(site.far.accepted(), ["", "one", ""]);
    stop(running).await;
}

/// As [`STAMPS_BUT_TRAPS_ON_MARK`], and another version.
fn traps_on_mark_as_well() -> String {
    format!("(nop) {STAMPS_BUT_TRAPS_ON_MARK}")
}

#[tokio::test]
async fn what_was_proven_beside_a_version_that_failed_meanwhile_is_proven_anew() {
    let site = Site::new(&stamps('a'));
    let running = site.begun().await;
    running.deliver("-1").await;
    site.write(STAMPS_BUT_TRAPS_ON_MARK);
    running.reloads.reload().await.unwrap();
    site.write(&stamps('c'));
    let meanwhile = async {
        running.deliver("!2").await;
        // While the reloader is busy: the process may end now.
        assert!(site.kept().last().unwrap().starts_with(&version(&stamps('a'))));
    };
    let reloaded = running.order_while(&site, running.reloads.reload(), meanwhile).await.unwrap();
    let replaced = reloaded.before.unwrap();
    assert!(replaced.contains(&version(&stamps('a'))), "{replaced}");
    assert_eq!(reloaded.comparison.unwrap().messages, 2);
    running.deliver("-3").await;
    assert_eq!(site.far.accepted(), ["a1", "a2", "c3"]);
    let versions = site.versions();
    let failed = versions
        .of("test")
        .unwrap()
        .into_iter()
        .find(|known| known.version.starts_with(&version(STAMPS_BUT_TRAPS_ON_MARK)));
    assert!(versions.is_quarantined("test", &failed.unwrap().version).unwrap());
    stop(running).await;
}

#[tokio::test]
async fn a_version_with_its_own_form_of_state_begins_with_none_also_after_a_way_back_meanwhile() {
    let before = |what: &str| {
        let locals = "(local $body i32) (local $len i32)";
        let body = durable::RECALLS.trim_start().strip_prefix(locals).unwrap();
        format!("{locals} {what} {body}")
    };
    let site = Site::new(durable::RECALLS);
    let running = site.begun().await;
    running.deliver("1").await;
    *site.files.state_version.lock().unwrap() = 1;
    site.write(&before("(if (i32.eq (i32.const 33) (call $first (local.get $batch))) (then unreachable))"));
    running.reloads.reload().await.unwrap();
    running.deliver("2").await;
    site.write(&before("(nop)"));
    // Remembered by the first one, in its own form.
    running.order_while(&site, running.reloads.reload(), running.deliver("!3")).await.unwrap();
    running.deliver("4").await;
    running.deliver("5").await;
    assert_eq!(site.far.accepted(), ["", "", "", "", "4"]);
    stop(running).await;
}

#[tokio::test]
async fn nobody_goes_back_to_what_has_failed_unless_he_names_it() {
    let site = Site::new(&stamps('a'));
    let running = site.begun().await;
    site.write(STAMPS_BUT_TRAPS_ON_MARK);
    running.reloads.reload().await.unwrap();
    running.deliver("!1").await;
    let refusal = running.reloads.roll_back(None).await.unwrap_err();
    assert!(matches!(&refusal, Refusal::NoVersion(_)), "{refusal}");
    assert_eq!(running.version(), version(&stamps('a')));
    let named = running.reloads.roll_back(Some(version(STAMPS_BUT_TRAPS_ON_MARK))).await.unwrap();
    assert!(named.replaced);
    assert_eq!(running.version(), version(STAMPS_BUT_TRAPS_ON_MARK));
    stop(running).await;
}

#[tokio::test]
async fn an_order_to_go_back_is_obeyed_once_where_the_lanes_have_gone_back_meanwhile() {
    let site = Site::new(&stamps('z'));
    let running = site.begun().await;
    for letter in ['a', 'b'] {
        site.write(&stamps(letter));
        running.reloads.reload().await.unwrap();
    }
    // Not on probation, as what is put back in place is not.
    running.reloads.roll_back(None).await.unwrap();
    site.write(STAMPS_BUT_TRAPS_ON_MARK);
    running.reloads.reload().await.unwrap();
    let back =
        running.order_while(&site, running.reloads.roll_back(None), running.deliver("!1")).await.unwrap();
    assert!(back.replaced && back.before.unwrap().contains(&version(STAMPS_BUT_TRAPS_ON_MARK)));
    assert_eq!(running.version(), version(&stamps('a')));
    stop(running).await;
}

#[tokio::test]
async fn what_an_operator_went_back_to_runs_after_a_restart_also_if_it_came_from_elsewhere() {
    let mut site = Site::new(&stamps('a'));
    let running = site.start();
    running.deliver("-1").await;
    stop(running).await;
    site.origin = "other.wasm";
    site.write(&stamps('b'));
    let running = site.start();
    running.deliver("-2").await;
    running.reloads.roll_back(None).await.unwrap();
    stop(running).await;
    let running = site.start();
    running.deliver("-3").await;
    assert_eq!(site.far.accepted(), ["a1", "b2", "a3"]);
    stop(running).await;
}

#[tokio::test]
async fn a_way_back_that_cannot_clear_the_state_changes_nothing() {
    let site = Site::new(&stamps('a'));
    let running = site.begun().await;
    running.deliver("-1").await;
    *site.files.state_version.lock().unwrap() = 1;
    site.write(&stamps('b'));
    running.reloads.reload().await.unwrap();
    // The form of the state is that of the recipe here.
    *site.files.state_version.lock().unwrap() = 0;
    let kept = site.kept();
    running.journal.close().await;
    assert!(matches!(running.reloads.roll_back(None).await, Err(Refusal::Disk(_))));
    assert_eq!((running.version(), site.kept()), (version(&stamps('b')), kept.clone()));
    assert!(!site.versions().is_quarantined("test", kept.last().unwrap()).unwrap());
    running.kill().await;
}

#[tokio::test]
async fn a_version_on_trial_makes_place_for_what_has_stood_its_own() {
    let site = Site::new(&stamps('a'));
    let running = site.begun().await;
    for transform in [STAMPS_BUT_TRAPS_ON_MARK.to_owned(), traps_on_mark_as_well()] {
        site.write(&transform);
        running.reloads.reload().await.unwrap();
    }
    running.deliver("-1").await;
    running.deliver("!2").await;
    assert_eq!(
        (site.far.accepted(), running.counters().dead_lettered),
        (vec!["x1".to_owned(), "a2".to_owned()], 0)
    );
    stop(running).await;
}

#[tokio::test]
async fn restart_ends_probation() {
    let site = Site::new(&stamps('a'));
    let running = site.begun().await;
    site.write(STAMPS_BUT_TRAPS_ON_MARK);
    running.reloads.reload().await.unwrap();
    running.deliver("-1").await;
    running.kill().await;
    let running = site.start();
    running.deliver("-2").await;
    running.append(["!3".to_owned()]).await;
    running.until(|b| b.dead_lettered == 1).await;
    running.deliver("-4").await;
    assert_eq!(site.far.accepted(), ["x1", "x2", "x4"]);
    assert_eq!(running.version(), version(STAMPS_BUT_TRAPS_ON_MARK));
    stop(running).await;
}

#[tokio::test]
async fn a_way_back_that_cannot_be_kept_is_kept_later() {
    let site = Site::new(&stamps('a'));
    let running = site.begun().await;
    site.write(STAMPS_BUT_TRAPS_ON_MARK);
    running.reloads.reload().await.unwrap();
    site.break_record(true);
    running.deliver("!1").await;
    until(|| running.version() == version(&stamps('a'))).await;
    site.write(&stamps('b'));
    assert!(matches!(running.reloads.reload().await, Err(Refusal::Disk(_))));
    site.break_record(false);
    running.reloads.reload().await.unwrap();
    running.deliver("-2").await;
    assert_eq!(site.far.accepted(), ["a1", "b2"]);
    let failed = site.kept().into_iter().find(|known| known.starts_with(&version(STAMPS_BUT_TRAPS_ON_MARK)));
    assert!(site.versions().is_quarantined("test", &failed.unwrap()).unwrap());
    stop(running).await;
}

#[tokio::test]
async fn cases_that_take_for_ever_are_given_up() {
    let mut site = Site::new(&stamps('a'));
    site.rules.cases = Duration::from_millis(200);
    let running = site.begun().await;
    // Passes everything and never ends with what begins with `!`.
    let lines = "!\\n".repeat(400);
    site.write(&format!(
        "(loop $again (br_if $again (i32.eq (i32.const 33) (call $first (local.get $batch)))))
        (call $pass (local.get $batch) (local.get $n)))
        (@custom \"sluicegate:cases/slow/input.jsonl\" \"{lines}\")
        (func"
    ));
    let refusal = running.reloads.reload().await.unwrap_err();
    assert_eq!(refusal.to_string(), "its own cases take longer than 0.2 s");
    running.deliver("-1").await;
    assert_eq!(site.far.accepted(), ["a1"]);
    stop(running).await;
}

#[tokio::test]
async fn changed_tables_are_taken_whatever_has_become_of_the_script_file() {
    let site = Site::new(LOOKS_UP);
    let names = |csv| *site.files.names.lock().unwrap() = Some(csv);
    names("imei,id\n7,one\n");
    let running = site.start();
    running.deliver("7").await;
    let other = format!("(nop) {LOOKS_UP}");
    site.write(&other);
    running.reloads.reload().await.unwrap();
    running.reloads.roll_back(None).await.unwrap();
    // What the file has is put aside.
    names("imei,id\n7,two\n");
    running.reloads.look().await;
    running.deliver("7").await;
    let refused = running.status.refused().unwrap();
    assert!(refused.contains("has been taken back before"), "{refused}");
    // It is no script.
    site.write_bytes(b"half a fi");
    names("imei,id\n7,three\n");
    running.reloads.look().await;
    running.deliver("7").await;
    // It is none at all.
    *site.files.wasm.lock().unwrap() = None;
    names("imei,id\n7,four\n");
    running.reloads.look().await;
    running.deliver("7").await;
    assert_eq!(running.status.refused().unwrap(), "it is gone");
    assert_eq!(running.version(), version(LOOKS_UP));
    assert_eq!(site.far.accepted(), ["one", "two", "three", "four"]);
    stop(running).await;
}
