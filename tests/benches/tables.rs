//! Lookup tables: how long a file takes to read, what a row costs in memory,
//! and what a lookup costs, in the gateway and from a template of a script.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use message::Message;
use script::{Engine, Mapper, Recipe, Script, State, Table, Tables};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::common::{self, median, range, thread_cpu};

const ROWS: [usize; 2] = [20_000, 1_000_000];
/// Lookups, and messages that are mapped, in each round.
const LOOKUPS: usize = 200_000;
const BATCH: usize = 100;
const BATCHES: usize = 50;
const ROUNDS: usize = 15;
/// Not counted: caches fill.
const WARM_UP_ROUNDS: usize = 2;

/// Measures and prints the table.
pub fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let engine = Engine::new(8).expect("the engine");
    common::print_head(
        "Lookup tables: CPU time of the thread",
        &[
            (
                "rows",
                "a key of 15 digits, a value of 15 characters: `352625000000007,vehicle-0000007`".to_owned(),
            ),
            (
                "messages",
                format!("{} bytes, {} devices, batches of {BATCH}", common::PAYLOAD, common::DEVICES),
            ),
            (
                "rounds",
                format!("{ROUNDS} of {LOOKUPS} lookups, {} messages, taking turns; medians", BATCH * BATCHES),
            ),
        ],
    );
    println!("  {:<10} {:>10} {:>16} {:>14}  min - max", "rows", "read ms", "bytes a row", "lookups/s");
    let mut tables = Vec::new();
    for rows in ROWS {
        let csv = csv(rows);
        let before = thread_cpu();
        let read = Tables::of_csv([("names", csv.as_bytes())]).expect("a table");
        let reading = (thread_cpu() - before).as_secs_f64() * 1e3;
        let (_, table) = read.iter().next().expect("the table");
        let each = table.size() as f64 / rows as f64;
        let rates: Vec<f64> = (0..WARM_UP_ROUNDS + ROUNDS).map(|round| lookups(table, rows, round)).collect();
        let rates = &rates[WARM_UP_ROUNDS..];
        let (least, most) = range(rates);
        println!("  {rows:<10} {reading:>10.1} {each:>16.1} {:>14.0}  {least:.0} - {most:.0}", median(rates));
        tables.push(read);
    }

    let large = tables.pop().expect("two tables");
    let small = tables.pop().expect("two tables");
    let mut cases = [
        Case::new("fleet/{ident}/up", "no table", Tables::default(), &engine, &runtime),
        Case::new("fleet/{names[ident]}/up", "20,000 rows", small, &engine, &runtime),
        Case::new("fleet/{names[ident]}/up", "1,000,000 rows", large, &engine, &runtime),
    ];
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        for case in &mut cases {
            let ns = runtime.block_on(case.round());
            if round >= WARM_UP_ROUNDS {
                case.ns.push(ns);
            }
        }
    }
    println!("\n  {:<26} {:<16} {:>14}  min - max", "topic (mqtt-json)", "table", "ns a message");
    for case in &cases {
        let (least, most) = range(&case.ns);
        println!(
            "  {:<26} {:<16} {:>14.0}  {least:.0} - {most:.0}",
            case.topic,
            case.table,
            median(&case.ns)
        );
    }
    println!();
}

fn key(number: usize) -> String {
    format!("35262500{number:07}")
}

fn csv(rows: usize) -> String {
    let mut csv = String::from("imei,name\n");
    for number in 0..rows {
        let _ = writeln!(csv, "{},vehicle-{number:07}", key(number));
    }
    csv
}

/// Lookups a second, each of another key far from the one before.
fn lookups(table: &Table, rows: usize, round: usize) -> f64 {
    let keys: Vec<String> = (0..LOOKUPS).map(|n| key((round * 31 + n * 7_919) % rows)).collect();
    let before = thread_cpu();
    for key in &keys {
        assert!(black_box(table.get(key)).is_some(), "{key}");
    }
    LOOKUPS as f64 / (thread_cpu() - before).as_secs_f64()
}

/// A topic template of the adapter `mqtt-json`.
struct Case {
    topic: &'static str,
    table: &'static str,
    mapper: Mapper,
    batch: Vec<Message>,
    ns: Vec<f64>,
}

impl Case {
    fn new(
        topic: &'static str,
        table: &'static str,
        tables: Tables,
        engine: &Engine,
        runtime: &Runtime,
    ) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/adapters/mqtt-json.wasm");
        let wasm = std::fs::read(&file)
            .unwrap_or_else(|error| panic!("{}: {error}; `make adapters` builds it", file.display()));
        let recipe = Recipe { settings: json!({ "topic": topic }), tables, ..Recipe::new("mqtt-json", wasm) };
        let script = runtime.block_on(Script::load(engine, recipe)).expect("the script");
        let mapper = script.lane(0, &State::new(), Arc::new(|_, line: &str| panic!("it logs: {line}")));
        let message =
            |n| Message { topic: common::topic(n).into(), payload: common::payload(n), received_at: 0 };
        Self { topic, table, mapper, batch: (0..BATCH).map(message).collect(), ns: Vec::new() }
    }

    /// CPU nanoseconds a message.
    async fn round(&mut self) -> f64 {
        let before = thread_cpu();
        for _ in 0..BATCHES {
            let mapping = self.mapper.transform(&self.batch).await.expect("it maps");
            assert_eq!(black_box(mapping).deliveries.len(), BATCH);
        }
        (thread_cpu() - before).as_nanos() as f64 / (BATCH * BATCHES) as f64
    }
}
