//! Scripts in WAT, misbehaving in every way, against the real engine.

#![allow(clippy::unwrap_used)]

mod hostile;
mod loading;
mod lookups;
mod pure;
mod running;
mod stateful;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::bus::Message;

/// One engine for all tests, as in the gateway.
pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(64).unwrap())
}

/// A module of the prelude and these definitions. Without a `configure` of
/// their own they get one that accepts everything.
fn module(definitions: &str) -> Vec<u8> {
    let configure = if definitions.contains("\"configure\"") {
        ""
    } else {
        "(func (export \"configure\") (param i32 i32) (result i32) (i32.const 16))"
    };
    let prelude = include_str!("prelude.wat");
    wat::parse_str(format!("(module {prelude} {configure} {definitions})")).unwrap()
}

/// A module whose `transform` has this body; its parameters are `$batch` and
/// `$n`.
pub(crate) fn transform(body: &str) -> Vec<u8> {
    module(&format!(r#"(func (export "transform") (param $batch i32) (param $n i32) (result i32) {body})"#))
}

/// The same of a script that accepts only settings that are as long as these.
pub(crate) fn transform_for(settings: &str, body: &str) -> Vec<u8> {
    let length = settings.len();
    module(&format!(
        r#"(func (export "configure") (param i32 i32) (result i32)
             (if (i32.ne (local.get 1) (i32.const {length}))
               (then (return (call $error (local.get 0) (local.get 1)))))
             (i32.const 16))
           (func (export "transform") (param $batch i32) (param $n i32) (result i32) {body})"#
    ))
}

/// `transform` of a script that delivers every payload unchanged.
pub(crate) const PASS: &str = "(call $pass (local.get $batch) (local.get $n))";

async fn load_with(wasm: Vec<u8>, limits: Limits) -> Result<Script, LoadError> {
    Script::load(engine(), Recipe { settings: json!({"a": 1}), limits, ..Recipe::new("test", wasm) }).await
}

async fn load(wasm: Vec<u8>) -> Result<Script, LoadError> {
    load_with(wasm, Limits::default()).await
}

/// Lines that a script has logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(LogLevel, String)>>>);

impl Lines {
    fn sink(&self) -> LogSink {
        let lines = self.0.clone();
        Arc::new(move |level, text| lines.lock().unwrap().push((level, text.to_owned())))
    }

    fn taken(&self) -> Vec<(LogLevel, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn mapper(script: &Script) -> Mapper {
    script.lane(0, &State::new(), Lines::default().sink())
}

/// A mapper for a module, with a time limit short enough for a test.
async fn mapper_of(wasm: Vec<u8>) -> Mapper {
    let limits =
        Limits { time: Duration::from_millis(100), time_per_message: Duration::ZERO, ..Limits::default() };
    mapper(&load_with(wasm, limits).await.unwrap())
}

fn batch<const N: usize>(payloads: [&str; N]) -> Vec<Message> {
    payloads
        .iter()
        .map(|payload| Message {
            topic: "t".into(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            received_at: 7,
        })
        .collect()
}

/// The bodies of the deliveries.
fn bodies(mapping: &Mapping) -> Vec<&str> {
    mapping.deliveries.iter().map(|d| std::str::from_utf8(&d.body).unwrap()).collect()
}
