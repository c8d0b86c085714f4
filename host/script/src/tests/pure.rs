//! Scripts that remember what they must not.

use super::*;
use crate::purity;

/// Appends the number of the call to what it is given.
const COUNTS: &str = r#"
  (global $calls (mut i32) (i32.const 48))
  (func (export "transform") (param $batch i32) (param $n i32) (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (i32.store8 (i32.const 100) (global.get $calls))
    (call $answer (i32.const 100) (i32.const 1)))"#;

/// Faults at the second call.
const TIRES: &str = r#"
  (global $calls (mut i32) (i32.const 0))
  (func (export "transform") (param $batch i32) (param $n i32) (result i32)
    (if (global.get $calls) (then unreachable))
    (global.set $calls (i32.const 1))
    (call $pass (local.get $batch) (local.get $n)))"#;

/// Counts in the state: each call gives another body, and yet it is pure.
const COUNTS_IN_THE_STATE: &str = r#"
  (data (i32.const 100) "k0")
  (func (export "transform") (param $batch i32) (param $n i32) (result i32)
    (call $get (i32.const 100) (i32.const 1) (i32.const 200))
    (i32.store8 (i32.const 101) (i32.const 48))
    (if (i32.load8_u (i32.const 200))
      (then (i32.store8 (i32.const 101)
        (i32.add (i32.const 1) (i32.load8_u (i32.load (i32.const 204)))))))
    (call $set (i32.const 100) (i32.const 1) (i32.const 101) (i32.const 1))
    (call $answer (i32.const 101) (i32.const 1)))"#;

async fn checked(wasm: Vec<u8>, state: &State, batches: &[Vec<Message>]) -> Result<Vec<String>, String> {
    let script = load(wasm).await.unwrap();
    let outcomes = purity::check(&script, state, batches).await.map_err(|impurity| impurity.to_string())?;
    Ok(outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(mapping) => bodies(mapping).join(","),
            Err(fault) => fault.to_string(),
        })
        .collect())
}

#[tokio::test]
async fn a_counter_in_a_global_is_impure() {
    let text = checked(module(COUNTS), &State::new(), &[batch(["a"])]).await.unwrap_err();
    assert!(text.starts_with("batch 0 gives another result in an instance that has mapped others"), "{text}");
    assert!(text.contains("delivery 0 is MappedDelivery") && text.contains("b\"1\""), "{text}");
}

#[tokio::test]
async fn a_script_that_works_once_is_impure() {
    let text = checked(module(TIRES), &State::new(), &[batch(["a"])]).await.unwrap_err();
    assert!(text.contains("a mapping, then a fault: the script trapped"), "{text}");
}

#[tokio::test]
async fn a_counter_in_the_state_is_pure_and_the_state_stays_as_it_was() {
    let state = State::new();
    let batches = [batch(["a"]), batch(["b"]), batch(["c"])];
    let wasm = module(COUNTS_IN_THE_STATE);
    assert_eq!(checked(wasm.clone(), &state, &batches).await.unwrap(), ["0", "1", "2"]);
    assert!(state.is_empty());
    state.fill(0, vec![("k".into(), "5".into())]);
    assert_eq!(checked(wasm, &state, &batches).await.unwrap(), ["6", "7", "8"]);
    assert_eq!(state.get("k").unwrap(), "5");
}

#[tokio::test]
async fn a_fault_that_every_instance_has_is_an_outcome() {
    let wasm = transform(
        "(if (i32.eq (call $first (local.get $batch)) (i32.const 88)) (then unreachable))
         (call $pass (local.get $batch) (local.get $n))",
    );
    let outcomes = checked(wasm, &State::new(), &[batch(["a"]), batch(["X"]), batch(["b"])]).await.unwrap();
    assert_eq!((outcomes[0].as_str(), outcomes[2].as_str()), ("a", "b"));
    assert!(outcomes[1].starts_with("the script trapped"), "{outcomes:?}");
}
