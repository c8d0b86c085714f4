//! Scripts in WAT, misbehaving in every way, against the real engine.

#![allow(clippy::unwrap_used)]

mod hostile;
mod loading;
mod lookups;
mod pure;
mod running;
mod stateful;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use message::Message;
use serde_json::json;

use super::testing::{PASS, engine, module, transform};
use super::*;

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
