//! Scripts that keep state.

use super::*;

/// Keeps the last payload under the key `k` plus the first letter of the
/// topic; the body of message 0 is what was there before. A payload that
/// begins with `X` traps after the write, `E` fails, `D` deletes the key.
const REMEMBERS: &str = r#"
  (data (i32.const 100) "k")
  (func (export "transform") (param $batch i32) (param $n i32) (result i32)
    (local $first i32) (local $body i32) (local $len i32)
    (i32.store8 (i32.const 101) (i32.load8_u (i32.load (local.get $batch))))
    (local.set $first (call $first (local.get $batch)))
    (call $get (i32.const 100) (i32.const 2) (i32.const 200))
    (if (i32.load8_u (i32.const 200))
      (then
        (local.set $body (i32.load (i32.const 204)))
        (local.set $len (i32.load (i32.const 208)))))
    (call $set (i32.const 100) (i32.const 2)
      (i32.load offset=8 (local.get $batch)) (i32.load offset=12 (local.get $batch)))
    (if (i32.eq (local.get $first) (i32.const 88)) (then unreachable))
    (if (i32.eq (local.get $first) (i32.const 69)) (then (return (call $error (i32.const 100) (i32.const 1)))))
    (if (i32.eq (local.get $first) (i32.const 68)) (then (call $delete (i32.const 100) (i32.const 2))))
    (call $answer (local.get $body) (local.get $len)))"#;

async fn remembers() -> Script {
    load(module(REMEMBERS)).await.unwrap()
}

fn lane(script: &Script, lane: u32, state: &State) -> Mapper {
    script.lane(lane, state, Lines::default().sink())
}

/// The body of the mapping of one payload.
async fn map(mapper: &mut Mapper, payload: &str) -> String {
    bodies(&mapper.transform(&batch([payload])).await.unwrap())[0].to_owned()
}

#[tokio::test]
async fn state_outlives_instances_and_failed_calls_leave_none() {
    let state = State::new();
    let mut mapper = lane(&remembers().await, 0, &state);
    assert_eq!(map(&mut mapper, "one").await, "");
    assert_eq!(map(&mut mapper, "two").await, "one");
    mapper.rest();
    assert_eq!(map(&mut mapper, "three").await, "two");
    assert!(matches!(mapper.transform(&batch(["X"])).await, Err(ScriptFault::Trap(_))));
    assert!(matches!(mapper.transform(&batch(["E"])).await, Err(ScriptFault::Failed(_))));
    // One message is answered, the other is not: the contract is broken.
    assert!(matches!(mapper.transform(&batch(["a", "b"])).await, Err(ScriptFault::Contract(_))));
    assert_eq!(state.get("kt").unwrap(), "three");
    assert_eq!(map(&mut mapper, "D").await, "three");
    assert!(state.is_empty());
    assert_eq!(map(&mut mapper, "four").await, "");
}

#[tokio::test]
async fn isolated_mapping_repeats_the_first_and_changes_nothing() {
    let state = State::new();
    let mut mapper = lane(&remembers().await, 0, &state);
    map(&mut mapper, "one").await;
    let first = mapper.transform(&batch(["two"])).await.unwrap();
    map(&mut mapper, "three").await;

    let isolated = mapper.script().transform_isolated(&state, &batch(["two"]), &first.before).await.unwrap();
    assert_eq!(first.written.values, [("kt".into(), Some("two".into()))]);
    assert_eq!(isolated, Mapping { written: isolated.written.clone(), ..first });
    assert_eq!(isolated.written.values, []);
    let now =
        mapper.script().transform_isolated(&state, &batch(["two"]), &BeforeImage::default()).await.unwrap();
    assert_eq!(bodies(&now), ["three"]);
    assert_eq!(state.get("kt").unwrap(), "three");
}

#[tokio::test]
async fn a_key_of_another_lane_is_a_conflict_until_the_lanes_drain() {
    let state = State::new();
    let script = remembers().await;
    let (mut one, mut two) = (lane(&script, 0, &state), lane(&script, 1, &state));
    map(&mut one, "a").await;
    let fault = two.transform(&batch(["b"])).await.unwrap_err();
    assert_eq!(fault, ScriptFault::StateConflict { key: "kt".into(), owner: 0, lane: 1 });
    assert!(fault.is_batch_wide());
    assert_eq!(map(&mut one, "c").await, "a");
    let mut two = lane(&script, 1, &state.copy());
    assert_eq!(map(&mut two, "d").await, "c");
}

#[tokio::test]
async fn a_full_state_refuses_more() {
    let limits = Limits { state_bytes: 100, ..Limits::default() };
    let script = load_with(module(REMEMBERS), limits).await.unwrap();
    let state = State::new();
    let mut mapper = lane(&script, 0, &state);
    map(&mut mapper, "small").await;
    let fault = mapper.transform(&batch(["123456789 123456789 123456789 123456789"])).await.unwrap_err();
    assert_eq!(fault, ScriptFault::StateFull(100));
    assert_eq!(map(&mut mapper, "s").await, "small");
}

/// Sets and deletes the key that is the payload.
const PASSING_BY: &str = "
    (call $set (i32.load offset=8 (local.get $batch)) (i32.load offset=12 (local.get $batch))
      (i32.const 100) (i32.const 10))
    (call $delete (i32.load offset=8 (local.get $batch)) (i32.load offset=12 (local.get $batch)))
    (call $pass (local.get $batch) (local.get $n))";

#[tokio::test]
async fn keys_that_come_and_go_never_fill_the_state() {
    let limits = Limits { state_bytes: 1_000, ..Limits::default() };
    let script = load_with(transform(PASSING_BY), limits).await.unwrap();
    let state = State::new();
    let mut mapper = lane(&script, 0, &state);
    for number in 0..1_000 {
        mapper.transform(&batch([&format!("key {number}")])).await.unwrap();
    }
    assert!(state.is_empty() && state.size() <= 1_000, "{state:?}");
}
