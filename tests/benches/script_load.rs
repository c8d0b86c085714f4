//! How long a script takes until it is ready: compiled in a child process, from
//! the code that was kept, and where another stream runs it already. And what a
//! stream takes in memory whose instance rests.
//!
//! Each adapter takes turns with the others, round by round.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use message::Message;
use script::compile::{Bounds, Child, Compilation};
use script::{Engine, Mapper, Recipe, Script, State};
use sluicegate_tests::gateway::{program, resident};
use tokio::runtime::Runtime;

use crate::common::{self, median, range};

const ROUNDS: usize = 9;
const STREAMS: usize = 1_000;

/// KB of memory that a stream may take.
const MEMORY_TARGET: f64 = 200.0;
/// Milliseconds for a script of about 60 KB.
const COLD_TARGET: f64 = 150.0;
const KEPT_TARGET: f64 = 1.0;
/// A script of this size has these targets; larger ones in proportion.
const SIZE: f64 = 60_000.0;

/// Measures and prints the table.
pub fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    common::print_head(
        "Script load: time until a script is compiled, linked, started and configured",
        &[
            ("cold", "compiled in a child process of one thread".to_owned()),
            ("kept", "its code read from a folder and verified".to_owned()),
            ("shared", "another stream runs the same script".to_owned()),
            ("rounds", format!("{ROUNDS}, taking turns; medians, milliseconds")),
        ],
    );
    times(&runtime);
    memory(&runtime);
}

fn compilation(cache: &Path) -> Compilation {
    let child = Child { program: program(), bounds: Bounds::default() };
    Compilation { child: Some(child), cache: Some(cache.to_owned()) }
}

async fn load(engine: &Engine, wasm: &'static [u8]) -> (Script, f64) {
    let start = Instant::now();
    let script = Script::load(engine, Recipe::new("bench", wasm)).await.expect("a script");
    (script, millis(start.elapsed()))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn times(runtime: &Runtime) {
    let adapters = adapters::all();
    let mut figures = vec![[const { Vec::new() }; 3]; adapters.len()];
    for _ in 0..ROUNDS {
        for (adapter, figures) in adapters.iter().zip(&mut figures) {
            let folder = common::disk_folder();
            let engine = || Engine::with(4, compilation(&folder.path().join("cache"))).expect("the engine");
            runtime.block_on(async {
                figures[0].push(load(&engine(), &adapter.wasm).await.1);
                let engine = engine();
                let (_runs, kept) = load(&engine, &adapter.wasm).await;
                figures[1].push(kept);
                figures[2].push(load(&engine, &adapter.wasm).await.1);
            });
        }
    }
    println!(
        "  {:<20} {:>7}  {:>8}  {:>8}  {:>8}  cold min - max",
        "adapter", "KB", "cold", "kept", "shared"
    );
    for (adapter, [cold, kept, shared]) in adapters.iter().zip(&figures) {
        let (least, most) = range(cold);
        let size = adapter.wasm.len() as f64;
        let missed = median(cold) > COLD_TARGET * (size / SIZE).max(1.0)
            || median(kept) > KEPT_TARGET * (size / SIZE).max(1.0);
        println!(
            "  {:<20} {:>7.0}  {:>8.1}  {:>8.2}  {:>8.2}  {least:.0} - {most:.0}{}",
            adapter.manifest.name,
            size / 1_000.0,
            median(cold),
            median(kept),
            median(shared),
            if missed { "  MISSED" } else { "" }
        );
    }
    println!("  target: {COLD_TARGET} cold and {KEPT_TARGET} kept for 60 KB, in proportion for more\n");
}

/// Streams of all adapters in turn; each maps a batch, then its instance rests.
fn memory(runtime: &Runtime) {
    let folder = common::disk_folder();
    let engine = Engine::with(STREAMS as u32, compilation(folder.path())).expect("the engine");
    let batch: Vec<Message> = (0..100)
        .map(|number| Message {
            topic: common::topic(number).into(),
            payload: common::payload(number),
            received_at: 1_760_000_000_000,
        })
        .collect();
    let adapters = adapters::all();
    let make = |count: usize| -> Vec<Mapper> {
        runtime.block_on(async {
            let mut mappers = Vec::new();
            for number in 0..count {
                let script = load(&engine, &adapters[number % adapters.len()].wasm).await.0;
                mappers.push(script.lane(0, &State::new(), Arc::new(|_, _| {})));
            }
            mappers
        })
    };
    let map = |mappers: &mut [Mapper]| {
        for mapper in mappers {
            runtime.block_on(mapper.transform(&batch)).expect("a mapping");
        }
    };
    // The code and what the first calls fill belong to no stream.
    let mut first = make(adapters.len());
    map(&mut first);
    first.iter_mut().for_each(Mapper::rest);
    let kb = |before: f64| (resident(std::process::id()) - before) * 1_048.576 / STREAMS as f64;
    let before = resident(std::process::id());
    let mut mappers = make(STREAMS);
    let loaded = kb(before);
    map(&mut mappers);
    let running = kb(before);
    mappers.iter_mut().for_each(Mapper::rest);
    let resting = kb(before);
    println!(
        "  memory of a stream, {STREAMS} of them: {loaded:.1} KB loaded, {running:.1} KB with an instance"
    );
    println!(
        "  after a batch of 100 messages, {resting:.1} KB after the instance was dropped (target: {MEMORY_TARGET}){}\n",
        if resting > MEMORY_TARGET { "  MISSED" } else { "" }
    );
}
