//! Scripts that ask too much of the gateway, and bytes at random in the place
//! of modules and results.

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Passes through after so many rounds of this.
fn again_and_again(rounds: u32, body: &str) -> Vec<u8> {
    module(&format!(
        r#"(data (i32.const 100) "k")
        (func (export "transform") (param $batch i32) (param $n i32) (result i32)
          (local $i i32)
          (loop $next
            {body}
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const {rounds}))))
          (call $pass (local.get $batch) (local.get $n)))"#
    ))
}

const LOG: &str = "(call $log (i32.const 2) (i32.const 100) (i32.const 1))";
const GET: &str = "(call $get (i32.const 100) (i32.const 1) (i32.const 200))";
const DELETE: &str = "(call $delete (i32.const 100) (i32.const 1))";
/// In the table `k`.
const LOOK_UP: &str =
    "(call $lookup (i32.const 100) (i32.const 1) (i32.const 100) (i32.const 1) (i32.const 200))";
const NAMES: &str = "(call $tables (i32.const 200))";
/// A key of one byte, a value of 100,000.
const SET: &str = "(call $set (i32.const 100) (i32.const 1) (i32.const 1000) (i32.const 100000))";

/// With time for everything, and the table `k`, which has this value under `k`.
async fn load_with_table(wasm: Vec<u8>, value: &str) -> Script {
    let limits = Limits { time: Duration::from_secs(20), ..Limits::default() };
    let csv = format!("key,value\nk,{value}\n");
    let tables = Tables::of_csv([("k", csv.as_bytes())]).unwrap();
    Script::load(engine(), Recipe { tables, limits, ..Recipe::new("test", wasm) }).await.unwrap()
}

#[tokio::test]
async fn a_storm_of_calls_meets_its_limit() {
    for storm in [LOG, GET, DELETE, LOOK_UP, NAMES] {
        let script = load_with_table(again_and_again(21_000, storm), "v").await;
        let mut allowed = mapper(&script);
        assert_eq!(bodies(&allowed.transform(&batch(["x"])).await.unwrap()), ["x"]);
        let script = load_with_table(again_and_again(21_001, storm), "v").await;
        let fault = mapper(&script).transform(&batch(["x"])).await.unwrap_err();
        assert_eq!(fault, ScriptFault::HostCalls(21_000));
        assert!(!fault.is_batch_wide());
    }
    let text = ScriptFault::HostCalls(21_000).to_string();
    assert_eq!(text, "the script called the gateway more often than its limit of 21000 times in one call");
}

#[tokio::test]
async fn much_data_in_many_calls_meets_its_limit() {
    let text = "the script exchanged more data with the gateway than its limit of 64 MiB in one call";
    let limits = Limits { time: Duration::from_secs(20), ..Limits::default() };
    let script = load_with(again_and_again(671, SET), limits.clone()).await.unwrap();
    mapper(&script).transform(&batch(["x"])).await.unwrap();
    let script = load_with(again_and_again(672, SET), limits.clone()).await.unwrap();
    let fault = mapper(&script).transform(&batch(["x"])).await.unwrap_err();
    assert_eq!(fault.to_string(), text);
    // Reading is bounded as writing is: the value is copied each time.
    let body = format!("(if (i32.eqz (local.get $i)) (then {SET})) {GET} (global.set $top (i32.const 4096))");
    let script = load_with(again_and_again(700, &body), limits).await.unwrap();
    let fault = mapper(&script).transform(&batch(["x"])).await.unwrap_err();
    assert_eq!(fault.to_string(), text);
    // So is what a table has: 60,000 bytes, and a name and a key of one.
    let body = format!("{LOOK_UP} (global.set $top (i32.const 8192))");
    let value = "v".repeat(60_000);
    for (rounds, fits) in [(1_118, true), (1_119, false)] {
        let script = load_with_table(again_and_again(rounds, &body), &value).await;
        let fault = mapper(&script).transform(&batch(["x"])).await.err().map(|fault| fault.to_string());
        assert_eq!(fault.as_deref(), (!fits).then_some(text));
    }
    // And the names of tables, which are one byte here.
    let limits = Limits { host_call_bytes: 100, ..Limits::default() };
    let tables = Tables::of_csv([("k", &b"k,v\n"[..])]).unwrap();
    for (rounds, fits) in [(100, true), (101, false)] {
        let wasm = again_and_again(rounds, NAMES);
        let recipe = Recipe { tables: tables.clone(), limits: limits.clone(), ..Recipe::new("test", wasm) };
        let script = Script::load(engine(), recipe).await.unwrap();
        assert_eq!(mapper(&script).transform(&batch(["x"])).await.is_ok(), fits);
    }
}

#[tokio::test]
async fn a_storm_in_configure_meets_its_limit() {
    let wasm = module(&format!(
        r#"(func (export "configure") (param i32 i32) (result i32) (loop $l {LOG} (br $l)) unreachable)
        (func (export "transform") (param i32 i32) (result i32) unreachable)"#
    ));
    let error = load_with(wasm, Limits { time: Duration::from_secs(20), ..Limits::default() }).await;
    let text = "it cannot be started: the script called the gateway more often than its limit of 20000 times in one call";
    assert_eq!(error.unwrap_err().to_string(), text);
}

/// Each call leaks a page of 64 KiB: the body is their number.
#[tokio::test]
async fn an_instance_that_leaks_makes_place_before_it_meets_its_limit() {
    let body = "(drop (memory.grow (i32.const 1)))
                (i32.store (i32.const 100) (memory.size))
                (call $answer (i32.const 100) (i32.const 4))";
    let script = load_with(transform(body), Limits { memory: 8 << 20, ..Limits::default() }).await.unwrap();
    let mut mapper = mapper(&script);
    let mut pages = Vec::new();
    for _ in 0..400 {
        let mapping = mapper.transform(&batch(["x"])).await.unwrap();
        let body: [u8; 4] = mapping.deliveries[0].body.as_ref().try_into().unwrap();
        pages.push(u32::from_le_bytes(body));
    }
    let most = *pages.iter().max().unwrap();
    assert!((64..128).contains(&most), "{most} pages, of 128 at most");
    assert!(pages.iter().filter(|now| **now == pages[0]).count() > 2, "there were fresh ones");
}

// ----- bytes at random -----

/// Words of which a result may be made: many of them such that something
/// follows, a small length or a pointer to more words.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0u32..4,
        4 => (0u32..64).prop_map(|word| RESULT + 4 * word),
        1 => 0u32..200_000,
        1 => any::<u32>(),
    ]
}

/// Words after the first of a result that filters one or two messages, which is
/// a mapping where there are so many and no pointer is wrong.
fn filtering() -> impl Strategy<Value = Vec<u32>> {
    (word(), word(), 1u32..3).prop_map(|(a, b, count)| vec![a, 0, b, 0, RESULT + 4 * 7, count, 0, 1])
}

/// Where the guest puts the bytes that it returns.
const RESULT: u32 = 131_072;

/// Whatever a guest leaves in its memory for a result: a mapping that keeps the
/// contract or a fault that is the script's own; and a fresh instance goes on.
#[test]
fn any_result_is_a_mapping_or_a_fault() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wasm = transform(&format!(
        "(if (i32.eq (call $first (local.get $batch)) (i32.const 255))
           (then (return (call $pass (local.get $batch) (local.get $n)))))
         (memory.copy (i32.const {RESULT}) (i32.load offset=8 (local.get $batch)) (i32.load offset=12 (local.get $batch)))
         (i32.const {RESULT})"
    ));
    let script = runtime.block_on(load(wasm)).unwrap();
    let mapper = RefCell::new(mapper(&script));
    let message = |payload: Vec<u8>| Message { topic: "t".into(), payload: payload.into(), received_at: 7 };
    // Ok, an error, or neither.
    let first = prop_oneof![8 => Just(0), 1 => Just(1), 1 => any::<u32>()];
    let words = prop_oneof![3 => prop::collection::vec(word(), 0..64), 1 => filtering()];
    let cases = Config { cases: 3_000, ..Config::default() };
    let mapped = Cell::new(0);
    TestRunner::new(cases)
        .run(&(first, words, 1usize..3), |(first, words, messages)| {
            let bytes: Vec<u8> =
                [&[first][..], &words].concat().iter().flat_map(|w| w.to_le_bytes()).collect();
            let batch: Vec<Message> = (0..messages).map(|_| message(bytes.clone())).collect();
            let mut mapper = mapper.borrow_mut();
            match runtime.block_on(mapper.transform(&batch)) {
                Ok(_) => mapped.set(mapped.get() + 1),
                Err(fault) => prop_assert!(
                    matches!(fault, ScriptFault::Trap(_) | ScriptFault::Contract(_) | ScriptFault::Failed(_)),
                    "{fault:?}"
                ),
            }
            let after = runtime.block_on(mapper.transform(&[message(vec![255, 1])])).unwrap();
            prop_assert_eq!(after.deliveries[0].body.as_ref(), &[255, 1]);
            Ok(())
        })
        .unwrap();
    assert!(mapped.get() > 20, "{} of the results were mappings: too few to show anything", mapped.get());
}

/// Bytes that were turned over, and where the rest was cut off.
fn damage() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>)> {
    let flips = prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4);
    (flips, prop::option::weighted(0.2, any::<prop::sample::Index>()))
}

/// A damaged script is refused, or does what it does within its limits. The
/// compiler neither panics nor hangs over it.
fn survives_damage(wasm: &'static [u8], cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limits =
        Limits { time: Duration::from_millis(50), time_per_message: Duration::ZERO, ..Limits::default() };
    TestRunner::new(Config { cases, max_shrink_iters: 20, ..Config::default() })
        .run(&damage(), |(flips, cut)| {
            let mut wasm = wasm.to_vec();
            for (at, bits) in flips {
                let at = at.index(wasm.len());
                wasm[at] ^= bits;
            }
            if let Some(cut) = cut {
                wasm.truncate(cut.index(wasm.len()));
            }
            match runtime.block_on(load_with(wasm, limits.clone())) {
                Err(LoadError::Compiler(reason)) => prop_assert!(false, "the compiler panicked: {reason}"),
                Err(_) => {}
                Ok(script) => {
                    let payload = r#"{"ident":"1","timestamp":1,"position.latitude":1}"#;
                    let _ = runtime.block_on(mapper(&script).transform(&batch([payload])));
                }
            }
            Ok(())
        })
        .unwrap();
    // Nothing of them is left in the way of a good one.
    let mut good = runtime.block_on(mapper_of(transform(PASS)));
    assert_eq!(bodies(&runtime.block_on(good.transform(&batch(["x"]))).unwrap()), ["x"]);
}

#[test]
fn a_damaged_module_is_an_error_or_a_script() {
    survives_damage(transform(PASS).leak(), 300);
}

/// Large modules with all that a compiler of Rust leaves in them.
#[test]
fn a_damaged_adapter_is_an_error_or_a_script() {
    for adapter in adapters::all() {
        survives_damage(&adapter.wasm, 12);
    }
}
