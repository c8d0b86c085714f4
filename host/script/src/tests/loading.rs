//! Files that are no scripts, and what is said about them.

use super::*;

/// The message of a load that must fail.
async fn refusal(wasm: Vec<u8>) -> String {
    load(wasm).await.unwrap_err().to_string()
}

/// A core module without the prelude.
fn core(definitions: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {definitions})")).unwrap()
}

const MEMORY: &str = r#"(memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))"#;

#[tokio::test]
async fn a_script_knows_its_name_and_version() {
    let script = load(transform(PASS)).await.unwrap();
    assert_eq!(script.name(), "test");
    assert_eq!(script.version(), &Version::of(&transform(PASS)));
    assert_eq!(format!("{script:?}"), format!("Script(test {})", script.version()));
}

#[tokio::test]
async fn bytes_that_are_no_webassembly() {
    assert_eq!(
        refusal(vec![]).await,
        "it is not WebAssembly: it begins with nothing (the file is empty), expected `\\0asm` (a .wasm file, not its text form)"
    );
    assert_eq!(
        refusal(b"(module)".to_vec()).await,
        "it is not WebAssembly: it begins with [28, 6d, 6f, 64], expected `\\0asm` (a .wasm file, not its text form)"
    );
    for wasm in [b"\0asm".to_vec(), b"\0asm\x01\0\0\0garbage".to_vec(), b"\0asm\x0d\0\x01\0garbage".to_vec()]
    {
        let text = refusal(wasm).await;
        assert!(text.starts_with("it is not valid WebAssembly: "), "{text}");
    }
}

/// Every prefix of a module, and the module with each byte turned over: an
/// error or a script, never a panic.
#[tokio::test]
async fn damaged_modules_are_errors() {
    let whole = core(&format!(
        r#"{MEMORY} (func (export "configure") (param i32 i32) (result i32) (i32.const 16))
        (func (export "transform") (param i32 i32) (result i32) unreachable)"#
    ));
    load(whole.clone()).await.unwrap();
    for end in 0..whole.len() {
        assert!(load(whole[..end].to_vec()).await.is_err(), "cut at {end}");
    }
    for at in 0..whole.len() {
        let mut wasm = whole.clone();
        wasm[at] ^= 0xff;
        drop(load(wasm).await);
    }
}

#[tokio::test]
async fn a_file_above_the_limit_is_not_even_looked_at() {
    let mut wasm = transform(PASS);
    wasm.resize((32 << 20) + 1, 0);
    assert_eq!(refusal(wasm).await, "it is larger than 32 MiB, the maximum size of a script");
}

#[tokio::test]
async fn modules_that_lack_an_export() {
    let text = refusal(core("")).await;
    assert_eq!(
        text,
        "it breaks the contract `sluicegate:mapper@0.1.0`: the module exports no `memory: memory`"
    );
    let text = refusal(core(MEMORY)).await;
    assert!(text.ends_with("the module exports no `configure: func (i32, i32) -> i32`"), "{text}");
    let text = refusal(core(&format!(r#"{MEMORY} (func (export "_start"))"#))).await;
    assert!(text.ends_with("; it is a program with `_start`: build a library"), "{text}");
    let text = refusal(core(&format!(
        r#"{MEMORY} (func (export "configure") (param i32 i32) (result i32) unreachable)
        (global (export "transform") i32 (i32.const 1))"#
    )))
    .await;
    assert!(text.ends_with("the module exports no `transform: func (i32, i32) -> i32`"), "{text}");
}

#[tokio::test]
async fn modules_with_another_signature() {
    let text = refusal(core(&format!(
        r#"{MEMORY} (func (export "configure") (param i32 i32) (result i32) unreachable)
        (func (export "transform") (param i32) (result i64) unreachable)"#
    )))
    .await;
    assert_eq!(
        text,
        "it breaks the contract `sluicegate:mapper@0.1.0`: \
         `transform` is `func (i32) -> i64`, expected `func (i32, i32) -> i32`"
    );
}

#[tokio::test]
async fn modules_that_import_what_is_not_offered() {
    let rest = format!(
        r#"{MEMORY} (func (export "configure") (param i32 i32) (result i32) unreachable)
        (func (export "transform") (param i32 i32) (result i32) unreachable)"#
    );
    let text = refusal(core(&format!(r#"(import "env" "now" (func (result i64))) {rest}"#))).await;
    assert!(text.contains("breaks the contract") && text.contains("env"), "{text}");
    let text = refusal(core(&format!(
        r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))) {rest}"#
    )))
    .await;
    assert!(text.starts_with("it imports wasi_snapshot_preview1, but a script gets no WASI"), "{text}");
    let text = refusal(core(&format!(
        r#"(import "sluicegate:mapper/state@0.1.0" "get" (func (param i32) (result i32))) {rest}"#
    )))
    .await;
    assert!(text.contains("breaks the contract") && text.contains("get"), "{text}");
}

#[tokio::test]
async fn components_that_want_wasi() {
    let wasm = wat::parse_str(
        r#"(component
          (import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result u64)))))
          (import "wasi:random/random@0.2.0" (instance)))"#,
    )
    .unwrap();
    let text = refusal(wasm).await;
    assert!(
        text.starts_with("it imports wasi:clocks/monotonic-clock@0.2.0, wasi:random/random@0.2.0, but a script gets no WASI"),
        "{text}"
    );
    assert!(text.contains("componentize-py `--stub-wasi`"), "{text}");
}

#[tokio::test]
async fn components_of_another_world() {
    let text = refusal(wat::parse_str("(component)").unwrap()).await;
    assert!(
        text.ends_with("it exports no `configure: func(settings: string) -> result<_, string>`"),
        "{text}"
    );
    let other = |signature: &str| {
        wat::parse_str(format!(
            r#"(component
              (core module $m (func (export "f") (param i32) (result i32) (local.get 0)))
              (core instance $i (instantiate $m))
              (func $f {signature} (canon lift (core func $i "f")))
              (export "configure" (func $f))
              (export "transform" (func $f)))"#
        ))
        .unwrap()
    };
    let text = refusal(other(r#"(param "x" u32) (result u32)"#)).await;
    assert!(text.contains("breaks the contract") && text.contains("`transform: func("), "{text}");
    let import = wat::parse_str(
        r#"(component
          (import "sluicegate:mapper/clock@0.1.0" (instance (export "now" (func (result u64)))))
          (core module $m (func (export "f")))
          (core instance $i (instantiate $m))
          (func $f (canon lift (core func $i "f")))
          (export "configure" (func $f))
          (export "transform" (func $f)))"#,
    )
    .unwrap();
    let text = refusal(import).await;
    assert!(text.contains("sluicegate:mapper/clock@0.1.0") && text.contains("the gateway offers"), "{text}");
}

#[tokio::test]
async fn settings_reach_configure_and_its_error_reaches_the_operator() {
    // Refuses with the settings themselves as text.
    let wasm = module(
        r#"(func (export "configure") (param i32 i32) (result i32) (call $error (local.get 0) (local.get 1)))
        (func (export "transform") (param i32 i32) (result i32) unreachable)"#,
    );
    assert_eq!(refusal(wasm.clone()).await, r#"it refuses its settings: {"a":1}"#);
    let none = Script::load(engine(), Recipe::new("t", wasm)).await;
    assert_eq!(none.unwrap_err().to_string(), "it refuses its settings: {}");
}

#[tokio::test]
async fn a_configure_that_faults() {
    let configure = |body: &str| {
        module(&format!(
            r#"(func $c (export "configure") (param i32 i32) (result i32) {body})
            (func (export "transform") (param i32 i32) (result i32) unreachable)"#
        ))
    };
    let text = refusal(configure("unreachable")).await;
    assert!(text.starts_with("it cannot be started: the script trapped: wasm `unreachable`"), "{text}");
    let text = refusal(configure("(loop $l (br $l)) unreachable")).await;
    assert_eq!(text, "it cannot be started: the script ran longer than its limit of 250 ms");
    let text =
        refusal(configure("(call $get (i32.const 0) (i32.const 0) (i32.const 100)) (i32.const 16)")).await;
    assert!(text.ends_with("the state was used in `configure`; it is there for `transform` only"), "{text}");
}

#[tokio::test]
async fn a_start_function_that_loops_meets_the_limit() {
    let wasm = module(
        r#"(func $s (loop $l (br $l))) (start $s)
        (func (export "transform") (param i32 i32) (result i32) unreachable)"#,
    );
    assert_eq!(refusal(wasm).await, "it cannot be started: the script ran longer than its limit of 250 ms");
}

#[tokio::test]
async fn a_module_that_begins_with_too_much_memory() {
    let wasm = core(
        r#"(memory (export "memory") 2000)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
        (func (export "configure") (param i32 i32) (result i32) (i32.const 16))
        (func (export "transform") (param i32 i32) (result i32) unreachable)"#,
    );
    assert_eq!(
        refusal(wasm.clone()).await,
        "it cannot be started: the script needs more memory than its limit of 64 MiB"
    );
    load_with(wasm, Limits { memory: 256 << 20, ..Limits::default() }).await.unwrap();
}

#[tokio::test]
async fn scripts_of_the_same_bytes_share_their_code() {
    let engine = Engine::new(4).unwrap();
    let wasm = Bytes::from(transform(PASS));
    let load = |settings| Script::load(&engine, Recipe { settings, ..Recipe::new("t", wasm.clone()) });
    let (one, two) = tokio::join!(load(json!({})), load(json!({"b": 2})));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(one.shares_code_with(&two));
    let limits = Limits { memory: 128 << 20, ..Limits::default() };
    let three = Script::load(&engine, Recipe { limits, ..Recipe::new("t", wasm.clone()) }).await.unwrap();
    assert!(!one.shares_code_with(&three), "one lives in the pool, the other does not");
}
