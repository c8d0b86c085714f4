//! Scripts that look up in tables.

use super::*;

/// Answers with what the table `names` has for the payload of message 0.
const LOOKS_UP: &str = r#"
  (data (i32.const 100) "names")
  (func $look (param $key i32) (param $len i32)
    (call $lookup (i32.const 100) (i32.const 5) (local.get $key) (local.get $len) (i32.const 200)))
  (func (export "transform") (param $batch i32) (param $n i32) (result i32)
    (call $look (i32.load offset=8 (local.get $batch)) (i32.load offset=12 (local.get $batch)))
    (if (result i32) (i32.load8_u (i32.const 200))
      (then (call $answer (i32.load (i32.const 204)) (i32.load (i32.const 208))))
      (else (call $mapping (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 96) (i32.const 1)))))"#;

fn names(csv: &str) -> Tables {
    Tables::of_csv([("names", csv.as_bytes())]).unwrap()
}

async fn load_with_tables(wasm: Vec<u8>, tables: Tables) -> Result<Script, LoadError> {
    Script::load(engine(), Recipe { tables, ..Recipe::new("test", wasm) }).await
}

#[tokio::test]
async fn a_script_looks_up_what_its_stream_defines() {
    let tables = names("imei,id\n8612,Truck 7\n8613,\n");
    let script = load_with_tables(module(LOOKS_UP), tables.clone()).await.unwrap();
    assert_eq!(script.tables().version(), tables.version());
    let mut mapper = mapper(&script);
    assert_eq!(bodies(&mapper.transform(&batch(["8612"])).await.unwrap()), ["Truck 7"]);
    assert_eq!(bodies(&mapper.transform(&batch(["8613"])).await.unwrap()), [""]);
    assert_eq!(mapper.transform(&batch(["8614"])).await.unwrap().filtered, [0]);
    let isolated =
        script.transform_isolated(&State::new(), &batch(["8612"]), &BeforeImage::default()).await.unwrap();
    assert_eq!(bodies(&isolated), ["Truck 7"]);
}

#[tokio::test]
async fn scripts_of_the_same_code_have_tables_of_their_own() {
    let one = load_with_tables(module(LOOKS_UP), names("a,b\nk,one\n")).await.unwrap();
    let two = load_with_tables(module(LOOKS_UP), names("a,b\nk,two\n")).await.unwrap();
    assert!(one.shares_code_with(&two));
    for (script, expected) in [(one, "one"), (two, "two")] {
        assert_eq!(bodies(&mapper(&script).transform(&batch(["k"])).await.unwrap()), [expected]);
    }
}

#[tokio::test]
async fn a_table_that_is_not_defined_is_a_fault_that_names_those_that_are() {
    let tables = Tables::of_csv([("b", &b"k,v\n"[..]), ("a", b"k,v\n")]).unwrap();
    let script = load_with_tables(module(LOOKS_UP), tables).await.unwrap();
    let fault = mapper(&script).transform(&batch(["8612"])).await.unwrap_err();
    assert_eq!(fault.to_string(), "the script asked for the table `names`; the stream defines `a`, `b`");
    assert!(fault.is_batch_wide(), "no message is to blame");

    let script = load(module(LOOKS_UP)).await.unwrap();
    let fault = mapper(&script).transform(&batch(["8612"])).await.unwrap_err();
    assert_eq!(fault.to_string(), "the script asked for the table `names`; the stream defines no tables");
}

#[tokio::test]
async fn tables_are_there_in_configure() {
    // Looks up the settings, which are 7 bytes, and refuses with what is found.
    let wasm = module(
        r#"(data (i32.const 100) "names")
        (func (export "configure") (param i32 i32) (result i32)
          (call $lookup (i32.const 100) (i32.const 5) (local.get 0) (local.get 1) (i32.const 200))
          (call $error (i32.load (i32.const 204)) (i32.load (i32.const 208))))
        (func (export "transform") (param i32 i32) (result i32) unreachable)"#,
    );
    let error = load_with_tables(wasm.clone(), names("a,b\n{},found\n")).await.unwrap_err();
    assert_eq!(error.to_string(), "it refuses its settings: found");
    let error = load_with_tables(wasm, Tables::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "it cannot be started: the script asked for the table `names`; the stream defines no tables"
    );
}

#[tokio::test]
async fn a_script_can_ask_which_tables_there_are() {
    // The first name, of a list of records of 8 bytes.
    let wasm = transform(
        "(call $tables (i32.const 200))
         (call $answer (i32.load (i32.load (i32.const 200))) (i32.load offset=4 (i32.load (i32.const 200))))",
    );
    let script = load_with_tables(wasm, names("a,b\n")).await.unwrap();
    assert_eq!(bodies(&mapper(&script).transform(&batch(["x"])).await.unwrap()), ["names"]);
}

/// Names and keys of any form, and more of them than a call's time allows.
#[tokio::test]
async fn hostile_lookups_hurt_the_script_alone() {
    let tables = names("a,b\nk,v\n");
    let asks = |body: &str| transform(&format!("{body} (call $answer (i32.const 0) (i32.const 0))"));
    let fault = async |wasm| {
        let limits =
            Limits { time: Duration::from_millis(50), time_per_message: Duration::ZERO, ..Limits::default() };
        let recipe = Recipe { tables: tables.clone(), limits, ..Recipe::new("test", wasm) };
        let script = Script::load(engine(), recipe).await.unwrap();
        mapper(&script).transform(&batch(["x"])).await.unwrap_err()
    };
    // A name of 64 KiB of zeros.
    let long = fault(asks(
        "(call $lookup (i32.const 65536) (i32.const 65536) (i32.const 0) (i32.const 1) (i32.const 200))",
    ))
    .await;
    assert!(matches!(&long, ScriptFault::UnknownTable { asked, .. } if asked.len() < 2_000), "{long}");
    // Beyond its memory.
    let beyond = fault(asks(
        "(call $lookup (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 1) (i32.const 200))",
    ))
    .await;
    assert!(matches!(beyond, ScriptFault::Trap(_) | ScriptFault::Contract(_)), "{beyond}");
    let storm = fault(module(
        r#"(data (i32.const 100) "namesk")
        (func (export "transform") (param i32 i32) (result i32)
          (loop $again
            (global.set $top (i32.const 4096))
            (call $lookup (i32.const 100) (i32.const 5) (i32.const 105) (i32.const 1) (i32.const 200))
            (br $again))
          unreachable)"#,
    ))
    .await;
    assert!(!storm.to_string().is_empty());
}
