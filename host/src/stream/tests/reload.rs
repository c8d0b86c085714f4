//! Scripts that change while the stream runs.

use tempfile::TempDir;

use super::durable::{open, stop};
use super::*;
use crate::stream::reload::Refusal;
use crate::stream::reload::versions::Versions;

/// A stream on a journal of its own, whose script can be written anew.
struct Site {
    folder: TempDir,
    far: Arc<FarSide>,
    /// What the source has; none: it cannot be read.
    wasm: Arc<Mutex<Option<Bytes>>>,
    state_version: Arc<Mutex<u32>>,
}

/// Delivers every payload with its first byte replaced.
fn stamps(letter: char) -> String {
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
const STAMPS_BUT_TRAPS_ON_MARK: &str = "
    (if (i32.eq (i32.const 33) (call $first (local.get $batch))) (then unreachable))
    (i32.store8 (i32.load offset=8 (local.get $batch)) (i32.const 120))
    (call $pass (local.get $batch) (local.get $n))";

impl Site {
    fn new(transform: &str) -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
            far: FarSide::new(Mood::Accepts, 8),
            wasm: Arc::default(),
            state_version: Arc::default(),
        };
        site.write(transform);
        site
    }

    fn write(&self, transform: &str) {
        *self.wasm.lock().unwrap() = Some(scripts::transform(transform).into());
    }

    fn write_bytes(&self, wasm: &'static [u8]) {
        *self.wasm.lock().unwrap() = Some(Bytes::from_static(wasm));
    }

    fn start(&self) -> Running {
        let (wasm, state_version) = (self.wasm.clone(), self.state_version.clone());
        let source = ScriptSource {
            origin: "mine.wasm".to_owned(),
            read: Box::new(move || wasm.lock().unwrap().clone().ok_or_else(|| "it is gone".to_owned())),
            recipe: Box::new(move |wasm| {
                let state_version = *state_version.lock().unwrap();
                Ok(Recipe { state_version, ..Recipe::new("mine", wasm) })
            }),
            follow: false,
            versions: Some(Versions::open(self.folder.path().join("scripts")).unwrap()),
            rules: ReloadRules::default(),
        };
        start_stream(open(&self.folder), Pressure::default(), source, self.far.clone(), 1)
    }
}

impl Running {
    fn version(&self) -> String {
        self.status.script().unwrap().1
    }
}

fn version(transform: &str) -> String {
    crate::script::Version::of(&scripts::transform(transform)).to_string()
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
    assert_eq!(running.books().dead_lettered, 0);
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
    assert_eq!(running.status.refused().unwrap(), refusal.to_string());
    site.write_bytes(b"half a fi");
    assert!(matches!(running.reloads.reload().await, Err(Refusal::Load(_))));
    *site.wasm.lock().unwrap() = None;
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
    *site.wasm.lock().unwrap() = None;
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
    *site.state_version.lock().unwrap() = 1;
    running.reloads.reload().await.unwrap();
    running.deliver("three").await;
    assert_eq!(site.far.accepted(), ["", "one", ""]);
    stop(running).await;
}
