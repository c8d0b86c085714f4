//! What a running script may do to itself, and never to anybody else.

use super::*;

/// Traps on payloads that begin with `X`, otherwise passes them through.
const TRAPS_ON_X: &str = r#"
  (func $step (param i32) (if (i32.eq (local.get 0) (i32.const 88)) (then unreachable)))
  (func (export "transform") (param $batch i32) (param $n i32) (result i32)
    (call $step (call $first (local.get $batch)))
    (call $pass (local.get $batch) (local.get $n)))"#;

#[tokio::test]
async fn passes_a_batch_through() {
    let mut mapper = mapper_of(transform(PASS)).await;
    let mapping = mapper.transform(&batch(["one", "", "three"])).await.unwrap();
    let delivery = |messages: u32, body: &'static str| MappedDelivery {
        messages: vec![messages],
        target: None,
        headers: vec![],
        body: Bytes::from_static(body.as_bytes()),
    };
    assert_eq!(
        mapping,
        Mapping {
            deliveries: vec![delivery(0, "one"), delivery(1, ""), delivery(2, "three")],
            ..Mapping::default()
        }
    );
    assert_eq!(mapper.transform(&[]).await.unwrap(), Mapping::default());
}

#[tokio::test]
async fn sees_topic_and_time_of_receipt() {
    // The body is the record: topic by way of its pointer, then the time.
    let mut mapper = mapper_of(transform(
        "(i32.store (i32.const 100) (i32.load8_u (i32.load (local.get $batch))))
         (i64.store (i32.const 104) (i64.load offset=16 (local.get $batch)))
         (call $answer (i32.const 100) (i32.const 12))",
    ))
    .await;
    let mapping = mapper.transform(&batch(["x"])).await.unwrap();
    assert_eq!(mapping.deliveries[0].body.as_ref(), b"t\0\0\0\x07\0\0\0\0\0\0\0");
}

#[tokio::test]
async fn returns_targets_headers_rejections_and_filtered() {
    let wasm = module(
        r#"(data (i32.const 100) "/pathnamevaluereason")
        (func (export "transform") (param $batch i32) (param $n i32) (result i32)
          (local $d i32)
          (local.set $d (call $alloc (i32.const 36)))
          (call $delivery (local.get $d) (i32.const 1) (i32.const 0) (i32.const 0))
          (i32.store offset=8 (local.get $d) (i32.const 1))
          (i32.store offset=12 (local.get $d) (i32.const 100))
          (i32.store offset=16 (local.get $d) (i32.const 5))
          (i32.store offset=20 (local.get $d) (i32.const 200))
          (i32.store offset=24 (local.get $d) (i32.const 1))
          (i32.store (i32.const 200) (i32.const 105)) (i32.store (i32.const 204) (i32.const 4))
          (i32.store (i32.const 208) (i32.const 109)) (i32.store (i32.const 212) (i32.const 5))
          (i32.store (i32.const 300) (i32.const 2))
          (i32.store (i32.const 304) (i32.const 114)) (i32.store (i32.const 308) (i32.const 6))
          (i32.store (i32.const 400) (i32.const 0))
          (call $mapping (local.get $d) (i32.const 1) (i32.const 300) (i32.const 1) (i32.const 400) (i32.const 1)))"#,
    );
    let mapping = mapper_of(wasm).await.transform(&batch(["a", "b", "c"])).await.unwrap();
    assert_eq!(mapping.deliveries[0].target.as_deref(), Some("/path"));
    assert_eq!(mapping.deliveries[0].headers, [("name".to_owned(), "value".to_owned())]);
    assert_eq!(mapping.rejections, [(2, "reason".to_owned())]);
    assert_eq!(mapping.filtered, [0]);
}

/// Both on one thread: the healthy one runs between the slices of the other.
#[tokio::test]
async fn a_looping_script_ends_by_its_limit_and_others_go_on_meanwhile() {
    let mut looping = mapper_of(transform("(loop $l (br $l)) unreachable")).await;
    let mut healthy = mapper_of(transform(PASS)).await;
    let messages = batch(["x"]);
    let end = looping.transform(&messages);
    tokio::pin!(end);
    let mut mapped = 0;
    let fault = loop {
        tokio::select! {
            biased;
            outcome = &mut end => break outcome.unwrap_err(),
            outcome = healthy.transform(&messages) => {
                outcome.unwrap();
                mapped += 1;
            }
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(fault, ScriptFault::Time(Duration::from_millis(100)));
    assert!(mapped >= 10, "the other script ran {mapped} times only");
}

#[tokio::test]
async fn the_time_limit_grows_with_the_batch() {
    let limits = Limits {
        time: Duration::from_millis(10),
        time_per_message: Duration::from_millis(20),
        ..Limits::default()
    };
    let script = load_with(transform("(loop $l (br $l)) unreachable"), limits).await.unwrap();
    let fault = mapper(&script).transform(&batch(["a", "b", "c"])).await.unwrap_err();
    assert_eq!(fault, ScriptFault::Time(Duration::from_millis(70)));
}

#[tokio::test]
async fn a_memory_bomb_meets_its_limit() {
    let mut bomb = mapper_of(transform(
        "(loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) unreachable",
    ))
    .await;
    let fault = bomb.transform(&batch(["x"])).await.unwrap_err();
    assert_eq!(fault, ScriptFault::Memory(64 << 20));
    // Again, so that a second instance gets just as much.
    assert_eq!(bomb.transform(&batch(["x"])).await.unwrap_err(), fault);
}

#[tokio::test]
async fn a_script_may_live_with_refused_memory() {
    let body = format!("(drop (memory.grow (i32.const 60000))) {PASS}");
    let mapping = mapper_of(transform(&body)).await.transform(&batch(["x"])).await.unwrap();
    assert_eq!(bodies(&mapping), ["x"]);
}

#[tokio::test]
async fn a_script_that_is_given_more_memory_than_the_pool_has_gets_it() {
    let body =
        format!("(if (i32.eq (i32.const -1) (memory.grow (i32.const 1200))) (then unreachable)) {PASS}");
    let wasm = transform(&body);
    let small = mapper_of(wasm.clone()).await.transform(&batch(["x"])).await;
    assert_eq!(small.unwrap_err(), ScriptFault::Memory(64 << 20));
    let roomy = load_with(wasm, Limits { memory: 128 << 20, ..Limits::default() }).await.unwrap();
    assert_eq!(bodies(&mapper(&roomy).transform(&batch(["x"])).await.unwrap()), ["x"]);
}

#[tokio::test]
async fn after_a_trap_a_fresh_instance_goes_on() {
    let mut mapper = mapper_of(module(TRAPS_ON_X)).await;
    assert_eq!(bodies(&mapper.transform(&batch(["a"])).await.unwrap()), ["a"]);
    for _ in 0..3 {
        let fault = mapper.transform(&batch(["X"])).await.unwrap_err();
        let text = fault.to_string();
        assert!(!fault.is_batch_wide());
        assert!(text.starts_with("the script trapped: wasm `unreachable` instruction executed"), "{text}");
        assert!(text.contains(" in step, called from "), "{text}");
        assert_eq!(bodies(&mapper.transform(&batch(["b"])).await.unwrap()), ["b"]);
    }
}

/// The hook of the SDK for panics logs, then traps.
#[tokio::test]
async fn a_trap_comes_with_the_last_error_that_the_call_had_logged() {
    let wasm = module(
        r#"(data (i32.const 100) "no\nway" "warned")
        (func (export "transform") (param $batch i32) (param $n i32) (result i32)
          (if (i32.eq (call $first (local.get $batch)) (i32.const 88)) (then
            (call $log (i32.const 3) (i32.const 100) (i32.const 6))
            (call $log (i32.const 2) (i32.const 106) (i32.const 6))
            unreachable))
          (if (i32.eq (call $first (local.get $batch)) (i32.const 89)) (then unreachable))
          (call $log (i32.const 3) (i32.const 100) (i32.const 6))
          (call $pass (local.get $batch) (local.get $n)))"#,
    );
    let mut mapper = mapper_of(wasm).await;
    let fault = mapper.transform(&batch(["X"])).await.unwrap_err().to_string();
    assert!(fault.ends_with("; it had logged: no\\nway"), "{fault}");
    mapper.transform(&batch(["a"])).await.unwrap();
    let fault = mapper.transform(&batch(["Y"])).await.unwrap_err().to_string();
    assert!(!fault.contains("logged"), "that was another call: {fault}");
}

#[tokio::test]
async fn deep_recursion_is_a_trap() {
    let wasm = module(
        r#"(func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))
        (func (export "transform") (param i32 i32) (result i32) (call $deep (i32.const 1)))"#,
    );
    let fault = mapper_of(wasm).await.transform(&batch(["x"])).await.unwrap_err();
    assert!(fault.to_string().contains("call stack exhausted"), "{fault}");
}

#[tokio::test]
async fn an_error_fails_the_batch_and_spares_the_instance() {
    // Counts its calls; fails the first.
    let wasm = module(
        r#"(global $calls (mut i32) (i32.const 0))
        (data (i32.const 100) "no\ngood")
        (func (export "transform") (param $batch i32) (param $n i32) (result i32)
          (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
          (if (i32.eq (global.get $calls) (i32.const 1))
            (then (return (call $error (i32.const 100) (i32.const 7)))))
          (call $pass (local.get $batch) (local.get $n)))"#,
    );
    let mut mapper = mapper_of(wasm).await;
    let fault = mapper.transform(&batch(["a"])).await.unwrap_err();
    assert_eq!(fault, ScriptFault::Failed("no\\ngood".into()));
    assert_eq!(bodies(&mapper.transform(&batch(["b"])).await.unwrap()), ["b"]);
    // A fresh instance counts from the beginning.
    assert!(
        mapper
            .script()
            .transform_isolated(&State::new(), &batch(["b"]), &BeforeImage::default())
            .await
            .is_err()
    );
    mapper.rest();
    assert!(mapper.transform(&batch(["b"])).await.is_err());
}

#[tokio::test]
async fn a_broken_contract_is_a_fault_and_costs_the_instance() {
    // Answers message 0 only; the byte after the payload's first is the count
    // of calls of this instance.
    let wasm = module(
        r#"(global $calls (mut i32) (i32.const 48))
        (func (export "transform") (param $batch i32) (param $n i32) (result i32)
          (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
          (i32.store8 (i32.const 100) (global.get $calls))
          (call $answer (i32.const 100) (i32.const 1)))"#,
    );
    let mut mapper = mapper_of(wasm).await;
    assert_eq!(bodies(&mapper.transform(&batch(["a"])).await.unwrap()), ["1"]);
    assert_eq!(bodies(&mapper.transform(&batch(["a"])).await.unwrap()), ["2"]);
    let fault = mapper.transform(&batch(["a", "b"])).await.unwrap_err();
    let text = "message 1 of 2 is in no delivery, not rejected and not filtered";
    assert_eq!(fault, ScriptFault::Contract(text.into()));
    assert_eq!(bodies(&mapper.transform(&batch(["a"])).await.unwrap()), ["1"]);
}

#[tokio::test]
async fn too_large_an_output_is_a_fault() {
    let limits = Limits { output_bytes: 1 << 20, ..Limits::default() };
    let bodies = [
        // one body of 1 MiB and a byte
        "(call $answer (call $alloc (i32.const 1048577)) (i32.const 1048577))",
        // one body of 20 MiB
        "(call $answer (call $alloc (i32.const 20971520)) (i32.const 20971520))",
    ];
    for body in bodies {
        let script = load_with(transform(body), limits.clone()).await.unwrap();
        let fault = mapper(&script).transform(&batch(["x"])).await.unwrap_err();
        assert!(matches!(&fault, ScriptFault::Contract(text) if text.contains("1024 KiB")), "{fault}");
    }
}

/// Bodies that all lie at one place would take a thousand times more memory
/// here than in the script.
#[tokio::test]
async fn overlapping_outputs_do_not_multiply() {
    let wasm = transform(
        "(local $list i32) (local $i i32) (local $body i32)
         (local.set $body (call $alloc (i32.const 8000000)))
         (local.set $list (call $alloc (i32.const 36000)))
         (loop $next
           (call $delivery (i32.add (local.get $list) (i32.mul (local.get $i) (i32.const 36)))
             (i32.const 0) (local.get $body) (i32.const 8000000))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $next (i32.lt_u (local.get $i) (i32.const 1000))))
         (call $mapping (local.get $list) (i32.const 1000) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
    );
    let fault = mapper_of(wasm).await.transform(&batch(["x"])).await.unwrap_err();
    let text = "more data in one call than the limit of 16384 KiB";
    assert_eq!(fault, ScriptFault::Contract(text.into()));
}

#[tokio::test]
async fn returned_rubbish_is_a_trap() {
    let cases = [
        ("the result beyond the memory", "(i32.const -100)"),
        ("a result that is not aligned", "(i32.const 17)"),
        (
            "a result that is neither ok nor error",
            "(i32.store8 (i32.const 100) (i32.const 2)) (i32.const 100)",
        ),
        ("a body beyond the memory", "(call $answer (i32.const 0) (i32.const 600000))"),
        (
            "an error text that is no UTF-8",
            "(i32.store8 (i32.const 100) (i32.const 255)) (call $error (i32.const 100) (i32.const 1))",
        ),
    ];
    for (case, body) in cases {
        let fault = mapper_of(transform(body)).await.transform(&batch(["x"])).await.unwrap_err();
        assert!(matches!(fault, ScriptFault::Trap(_)), "{case}: {fault}");
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_and_counted() {
    let wasm = module(
        r#"(data (i32.const 100) "hello\nworld")
        (func (export "transform") (param $batch i32) (param $n i32) (result i32)
          (local $i i32)
          (loop $next
            (call $log (i32.const 2) (i32.const 100) (i32.const 11))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 10000))))
          (call $pass (local.get $batch) (local.get $n)))"#,
    );
    let script = load(wasm).await.unwrap();
    let lines = Lines::default();
    let mut mapper = script.lane(0, &State::new(), lines.sink());
    mapper.transform(&batch(["x"])).await.unwrap();
    let taken = lines.taken();
    // The second may have turned while it ran.
    assert!((50..=150).contains(&taken.len()), "{} lines", taken.len());
    assert_eq!(taken[0], (LogLevel::Warn, "hello\\nworld".to_owned()));
    // Loading logs nothing, nor does a mapping that only repeats another.
    mapper.script().transform_isolated(&State::new(), &batch(["x"]), &BeforeImage::default()).await.unwrap();
    assert_eq!(lines.taken(), []);
}

/// A caller may give a mapping up at any point, for instance at shutdown.
#[tokio::test]
async fn a_mapping_given_up_half_way_breaks_nothing() {
    let wasm = module(
        r#"(func (export "transform") (param $batch i32) (param $n i32) (result i32)
          (if (i32.eq (call $first (local.get $batch)) (i32.const 88)) (then (loop $l (br $l))))
          (call $pass (local.get $batch) (local.get $n)))"#,
    );
    let script =
        load_with(wasm, Limits { time: Duration::from_secs(60), ..Limits::default() }).await.unwrap();
    let mut mapper = mapper(&script);
    let messages = batch(["X"]);
    let given_up = tokio::time::timeout(Duration::from_millis(20), mapper.transform(&messages)).await;
    assert!(given_up.is_err());
    assert_eq!(bodies(&mapper.transform(&batch(["a"])).await.unwrap()), ["a"]);
}

/// The engine counts instances; each that ends gives its place back.
#[tokio::test]
async fn many_instances_one_after_the_other_find_a_place() {
    let engine = Engine::new(1).unwrap();
    let script = Script::load(&engine, Recipe::new("t", module(TRAPS_ON_X))).await.unwrap();
    let mut mapper = mapper(&script);
    for _ in 0..200 {
        mapper.transform(&batch(["X"])).await.unwrap_err();
    }
    assert_eq!(bodies(&mapper.transform(&batch(["a"])).await.unwrap()), ["a"]);
}

#[tokio::test]
async fn an_engine_without_room_says_so_and_no_message_is_to_blame() {
    let engine = Engine::new(1).unwrap();
    let script = Script::load(&engine, Recipe::new("t", transform(PASS))).await.unwrap();
    let mut mappers: Vec<Mapper> = (0..40).map(|_| mapper(&script)).collect();
    let mut faults = Vec::new();
    for mapper in &mut mappers {
        faults.extend(mapper.transform(&batch(["x"])).await.err());
    }
    assert!(!faults.is_empty());
    assert!(faults.iter().all(|fault| matches!(fault, ScriptFault::Start(_)) && fault.is_batch_wide()));
    let mut last = mappers.pop().unwrap();
    drop(mappers);
    assert_eq!(bodies(&last.transform(&batch(["x"])).await.unwrap()), ["x"]);
}
