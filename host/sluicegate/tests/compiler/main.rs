//! Compiling in a child process: what it may take, what comes back, what is
//! kept.
#![allow(clippy::unwrap_used)]

mod bomb;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use script::compile::{Bounds, Child, Compilation};
use script::{Engine, LoadError, Recipe, Script};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sluicegate");

fn child(program: impl Into<PathBuf>, bounds: Bounds) -> Compilation {
    Compilation { child: Some(Child { program: program.into(), bounds }), cache: None }
}

fn engine(compilation: Compilation) -> Engine {
    Engine::with(4, compilation).unwrap()
}

async fn load(engine: &Engine, wasm: impl Into<bytes::Bytes>) -> Result<Script, LoadError> {
    Script::load(engine, Recipe::new("test", wasm)).await
}

fn official(name: &str) -> &'static [u8] {
    &adapters::official(name).unwrap().wasm
}

/// A program in the place of ours.
fn impostor(folder: &TempDir, script: &str) -> PathBuf {
    let path = folder.path().join("impostor");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// An engine with an impostor that has a second for its work.
fn engine_with(folder: &TempDir, script: &str) -> Engine {
    let bounds = Bounds { time: Duration::from_secs(1), ..Bounds::default() };
    engine(child(impostor(folder, script), bounds))
}

/// Files that the folder of compiled code has.
fn kept(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

async fn until_gone(process: &str) {
    let path = PathBuf::from(format!("/proc/{process}"));
    // A zombie has ended, too; its parent has not collected it yet.
    let lives = || fs::read_to_string(path.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
    let gone = async {
        while lives() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.expect("the child ends");
}

async fn content(path: &Path) -> String {
    let written = async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(Duration::from_secs(20), written).await.expect("the file is written")
}

#[tokio::test]
async fn child_compiles_same_code_as_this_process() {
    let (here, apart) = (engine(Compilation::default()), engine(child(PROGRAM, Bounds::default())));
    for adapter in adapters::all() {
        load(&apart, adapter.wasm.clone())
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", adapter.manifest.name));
    }
    let torn = &official("mqtt-json")[..10_000];
    let module = |text: &str| wat::parse_str(text).unwrap();
    let wasi = module(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#);
    let clock = module(r#"(component (import "wasi:clocks/monotonic-clock@0.2.0" (instance)))"#);
    let signature = module(
        r#"(module (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "configure") (param i64) (result i32) unreachable)
        (func (export "transform") (param i32 i32) (result i32) unreachable))"#,
    );
    let import = module(
        r#"(module (import "env" "now" (func)) (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "configure") (param i32 i32) (result i32) unreachable)
        (func (export "transform") (param i32 i32) (result i32) unreachable))"#,
    );
    let large = vec![0; 50 << 20];
    let cases: [(&[u8], &str); 9] = [
        (b"", "the file is empty"),
        (b"hello", "it is not WebAssembly"),
        (b"\x7fELF\x02\x01\x01", "it is compiled machine code"),
        (&large, "it is larger than 32 MiB, the maximum size of a script"),
        (torn, "it is not valid WebAssembly"),
        (&wasi, "it imports wasi_snapshot_preview1"),
        (&clock, "it imports wasi:clocks/monotonic-clock@0.2.0"),
        (&signature, "`configure` is `func (i64) -> i32`, expected `func (i32, i32) -> i32`"),
        (&import, "it breaks the contract"),
    ];
    for (wasm, text) in cases {
        let (here, apart) =
            (load(&here, wasm.to_vec()).await.unwrap_err(), load(&apart, wasm.to_vec()).await.unwrap_err());
        assert!(apart.to_string().contains(text), "{text}: {apart}");
        assert_eq!(here, apart);
    }
}

#[tokio::test]
async fn compile_bomb_hits_memory_limit() {
    let bounds = Bounds { memory: 400 << 20, ..Bounds::default() };
    let engine = engine(child(PROGRAM, bounds));
    let wasm = bomb::compile_bomb(400);
    assert!(wasm.len() < 2 << 20, "{} bytes", wasm.len());
    let error = load(&engine, wasm.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "compiling it takes more than 400 MiB of memory; the compiler was stopped");
    // A stream asks again and again; the answer is remembered.
    let again = Instant::now();
    assert_eq!(load(&engine, wasm).await.unwrap_err(), error);
    assert!(again.elapsed() < Duration::from_secs(1), "{:?}", again.elapsed());
    load(&engine, official("mqtt-json")).await.unwrap();
}

#[tokio::test]
async fn compile_bomb_hits_time_limit() {
    let bounds = Bounds { cpu: Duration::from_secs(1), memory: 16 << 30, ..Bounds::default() };
    let error = load(&engine(child(PROGRAM, bounds)), bomb::compile_bomb(400)).await.unwrap_err();
    assert_eq!(error.to_string(), "compiling it takes more than 1 s of CPU time; the compiler was stopped");
}

#[tokio::test]
async fn hanging_child_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let process = folder.path().join("process");
    let engine = engine_with(&folder, &format!("echo $$ > {}; exec sleep 600", process.display()));
    let error = load(&engine, official("mqtt-json")).await.unwrap_err();
    assert_eq!(error.to_string(), "compiling it takes more than 1 s; the compiler was stopped");
    until_gone(&content(&process).await).await;
}

#[tokio::test]
async fn cancelled_load_kills_its_child() {
    let folder = tempfile::tempdir().unwrap();
    let process = folder.path().join("process");
    let program = impostor(&folder, &format!("echo $$ > {}; exec sleep 600", process.display()));
    let engine = engine(child(program, Bounds::default()));
    let loading = tokio::spawn(async move { load(&engine, official("mqtt-json")).await });
    let process = content(&process).await;
    loading.abort();
    until_gone(&process).await;
}

#[tokio::test]
async fn failing_child_is_only_an_error() {
    let cases = [
        ("kill -SEGV $$", "the compiler failed: it ended with signal: 11"),
        ("cat > /dev/null; echo oh dear >&2; exit 3", "it ended with exit status: 3: oh dear"),
        ("exit 0", "the compiler failed: its answer is incomplete"),
        ("echo '{\"code\":9}'; echo '\u{7f}ELF'", "the compiler failed: its answer is incomplete"),
        ("exec yes", "the compiler failed: "),
        ("exec yes >&2", "the compiler failed: "),
        // As long as it said, but no code.
        ("echo '{\"code\":5}'; printf 12345", "it is not valid WebAssembly: "),
    ];
    for (script, text) in cases {
        let folder = tempfile::tempdir().unwrap();
        let error = load(&engine_with(&folder, script), official("mqtt-json")).await.unwrap_err();
        assert!(error.to_string().contains(text), "{script}: {error}");
    }
    let missing = engine(child("/nonexistent", Bounds::default()));
    let error = load(&missing, official("mqtt-json")).await.unwrap_err();
    assert!(
        error.to_string().starts_with("the compiler failed: its process could not be started"),
        "{error}"
    );
}

/// The child is a stranger in the house: it gets the script and nothing else.
#[tokio::test]
async fn child_inherits_nothing_from_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let script = format!("/usr/bin/env > {0}.part; pwd >> {0}.part; mv {0}.part {0}", seen.display());
    let _ = load(&engine_with(&folder, &script), official("mqtt-json")).await;
    let text = content(&seen).await;
    let known = ["RAYON_NUM_THREADS=1", "PWD=/", "/", "_=/usr/bin/env", "SHLVL=0", "OLDPWD=/"];
    assert!(text.lines().all(|line| known.contains(&line)), "{text}");
}

#[tokio::test]
async fn code_is_kept_for_the_next_start_and_spoiled_code_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let good = || engine(child(PROGRAM, Bounds::default()).cached_in(&cache));
    let no_compiler = || engine(child("/nonexistent", Bounds::default()).cached_in(&cache));

    load(&good(), official("mqtt-json")).await.unwrap();
    let [file] = &kept(&cache)[..] else { panic!("{:?}", kept(&cache)) };
    load(&no_compiler(), official("mqtt-json")).await.unwrap();
    assert!(load(&no_compiler(), official("http-json")).await.is_err(), "that one was never compiled");

    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, &bytes).unwrap();
    assert!(load(&no_compiler(), official("mqtt-json")).await.is_err());
    assert!(!file.exists());
    load(&good(), official("mqtt-json")).await.unwrap();
    load(&no_compiler(), official("mqtt-json")).await.unwrap();
}

/// What is kept is an executable object, and so is refused as a script.
#[tokio::test]
async fn compiled_code_is_no_script() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let engine = engine(child(PROGRAM, Bounds::default()).cached_in(&cache));
    load(&engine, official("mqtt-json")).await.unwrap();
    let bytes = fs::read(&kept(&cache)[0]).unwrap();
    let object = bytes.windows(4).position(|four| four == b"\x7fELF").unwrap();
    assert_eq!(load(&engine, bytes[object..].to_vec()).await.unwrap_err(), LoadError::Compiled);
}

/// A thousand streams, five adapters, five compilations; also when all start
/// at once.
#[tokio::test]
async fn scripts_of_many_streams_are_compiled_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("runs");
    let program = impostor(&folder, &format!("echo x >> {}; exec {PROGRAM} \"$@\"", log.display()));
    let engine = engine(child(program, Bounds::default()).cached_in(folder.path().join("cache")));
    let mut loads = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let adapters = adapters::all();
        let wasm = adapters[number % adapters.len()].wasm.clone();
        let engine = engine.clone();
        loads.spawn(async move {
            let recipe = Recipe { settings: Value::Null, ..Recipe::new(format!("s{number}"), wasm) };
            Script::load(&engine, recipe).await
        });
    }
    let scripts: Vec<Script> = loads.join_all().await.into_iter().map(Result::unwrap).collect();
    assert_eq!(scripts.len(), 1_000);
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), adapters::all().len());
}
