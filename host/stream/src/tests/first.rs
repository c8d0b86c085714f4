//! What a stream begins with: what was accepted, and what there is when that
//! cannot be run.

use script::Tables;
use serde_json::{Value, json};

use super::durable::stop;
use super::reload::{Site, stamps};
use super::*;
use crate::reload::Refusal;
use crate::reload::versions::Accepted;

/// Stamps messages with the letter, and accepts only settings like these.
fn for_settings(settings: &Value, letter: char) -> Bytes {
    scripts::transform_for(&settings.to_string(), &stamps(letter)).into()
}

fn none() -> Value {
    json!({})
}

fn some() -> Value {
    json!({ "n": 1 })
}

/// A stream that has run a version which wants no settings, and a version that
/// wants some in its place.
async fn with_a_version_that_wants_settings() -> Site {
    let site = Site::new("unreachable");
    *site.files.wasm.lock().unwrap() = Some(for_settings(&none(), 'a'));
    let running = site.start();
    running.deliver("-1").await;
    *site.files.wasm.lock().unwrap() = Some(for_settings(&some(), 'b'));
    assert!(matches!(running.reloads.reload().await, Err(Refusal::Load(_))));
    stop(running).await;
    site
}

#[tokio::test]
async fn settings_that_only_the_new_version_takes_bring_it_in() {
    let site = with_a_version_that_wants_settings().await;
    let running = site.start();
    running.deliver("-2").await;
    until(|| running.status.refused().is_some()).await;
    stop(running).await;

    *site.files.settings.lock().unwrap() = some();
    for payload in ["-3", "-4"] {
        // The second time it is what was accepted, and needs no file.
        let running = site.start();
        running.deliver(payload).await;
        assert_eq!(site.kept().len(), 2);
        stop(running).await;
        *site.files.wasm.lock().unwrap() = None;
    }
    assert_eq!(site.far.accepted(), ["a1", "a2", "b3", "b4"]);
}

#[tokio::test]
async fn where_nothing_takes_the_settings_both_reasons_are_told() {
    let site = with_a_version_that_wants_settings().await;
    *site.files.settings.lock().unwrap() = json!({ "neither": "of both" });
    let running = site.start();
    until(|| running.status.state().code() == Some(Code::ScriptInvalid)).await;
    let State::Blocked(_, reason) = running.status.state() else { panic!("it is not blocked") };
    let told = "script: it refuses its settings: {\"neither\":\"of both\"} (mine ";
    assert!(
        reason.starts_with(told) && reason.contains(" was accepted last; what there is now: it"),
        "{reason}"
    );
    stop(running).await;
}

/// That may be a matter of the machine, or of the gateway: nobody has chosen
/// another version, and so none runs until somebody does.
#[tokio::test]
async fn a_version_that_fails_otherwise_is_replaced_only_on_order() {
    let site = Site::new(&stamps('a'));
    let junk = b"half a fi";
    let accepted = Accepted {
        version: script::Version::of(junk).full(),
        name: "mine".to_owned(),
        source: "mine.wasm".to_owned(),
        accepted_at: 7,
        state_version: 0,
        tables: BTreeMap::new(),
    };
    site.versions().accept("test", accepted, junk, &Tables::default(), None).unwrap();
    let running = site.start();
    until(|| running.status.state().code() == Some(Code::ScriptInvalid)).await;
    running.reloads.reload().await.unwrap();
    running.deliver("-1").await;
    assert_eq!(site.far.accepted(), ["a1"]);
    stop(running).await;
}

#[tokio::test]
async fn an_operator_goes_back_from_a_version_that_cannot_be_run() {
    let site = Site::new(&stamps('a'));
    let running = site.start();
    running.deliver("-1").await;
    *site.files.wasm.lock().unwrap() = Some(for_settings(&none(), 'b'));
    running.reloads.reload().await.unwrap();
    stop(running).await;

    *site.files.settings.lock().unwrap() = some();
    *site.files.wasm.lock().unwrap() = None;
    let kept = site.kept();
    let running = site.start();
    until(|| matches!(running.status.state(), State::Blocked(..))).await;
    let again = running.reloads.roll_back(Some(kept[1].clone())).await;
    assert!(matches!(again, Err(Refusal::Load(_))), "{again:?}");
    assert!(matches!(running.reloads.roll_back(Some("0000".into())).await, Err(Refusal::NoVersion(_))));
    assert_eq!(running.reloads.roll_back(None).await.unwrap().before, None);
    running.deliver("-2").await;
    assert_eq!(site.kept(), [kept[1].clone(), kept[0].clone()]);
    stop(running).await;
    let running = site.start();
    running.deliver("-3").await;
    assert_eq!(site.far.accepted(), ["a1", "a2", "a3"]);
    stop(running).await;
}

/// Delivers what the table `names` has for the payload of message 0, and fails
/// without it.
const NEEDS_A_NAME: &str = "
    (i64.store (i32.const 128) (i64.const 0x73656d616e))
    (call $lookup (i32.const 128) (i32.const 5)
      (i32.load offset=8 (local.get $batch)) (i32.load offset=12 (local.get $batch)) (i32.const 200))
    (if (i32.eqz (i32.load8_u (i32.const 200))) (then unreachable))
    (i32.store offset=8 (local.get $batch) (i32.load (i32.const 204)))
    (i32.store offset=12 (local.get $batch) (i32.load (i32.const 208)))
    (call $pass (local.get $batch) (local.get $n))";

/// Otherwise whoever restarts the gateway would accept it.
#[tokio::test]
async fn a_table_that_was_refused_is_refused_after_a_restart() {
    for follow in [true, false] {
        let mut site = Site::new(NEEDS_A_NAME);
        site.follow = follow;
        let names = |csv| *site.files.names.lock().unwrap() = Some(csv);
        names("imei,id\n7,seven\n");
        let running = site.start();
        running.deliver("7").await;
        names("imei,id\n8,eight\n");
        let refusal = running.reloads.reload().await.unwrap_err();
        assert!(matches!(refusal, Refusal::Fails { count: 1, .. }), "{refusal}");
        stop(running).await;

        for broken in [false, true] {
            if broken {
                names("imei,id\n7,7\n7,8\n");
            }
            let running = site.start();
            running.deliver("7").await;
            until(|| running.status.refused().is_some()).await;
            stop(running).await;
        }
        // One that stands its proof is taken.
        names("imei,id\n7,sept\n");
        let running = site.start();
        running.deliver("7").await;
        let reloaded = running.reloads.reload().await.unwrap();
        assert!(!reloaded.replaced, "it was looked at already");
        running.deliver("7").await;
        let far = site.far.accepted();
        assert_eq!(far[..3], ["seven", "seven", "seven"]);
        assert_eq!(far[4], "sept");
        stop(running).await;
    }
}
