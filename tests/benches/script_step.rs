//! How much the sandbox costs: CPU time per message of the script step, for
//! each official adapter as WebAssembly under the default limits, against the
//! same mapping code natively in the same process.
//!
//! All cases take turns, round by round, so that whatever else the machine
//! does meets both sides alike: the ratios are the figures to trust. Before
//! anything is timed both sides must make the same deliveries, byte for byte.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use message::Message;
use script::{Engine, Mapper, Recipe, Script, State};
use serde_json::{Value, json};
use sluicegate_sdk::{BatchScript, Instance, RawMessage};
use tokio::runtime::Runtime;

use crate::common::{self, median, range, thread_cpu};

const BATCHES: [usize; 3] = [1, 10, 100];
/// Messages that each side maps in each round.
const MESSAGES: usize = 2_000;
const ROUNDS: usize = 31;
/// Not counted: caches fill, the processor's clock rises, memory is mapped.
const WARM_UP_ROUNDS: usize = 4;
const DEVICES: u64 = 20;
/// How much longer WebAssembly may take than the same code natively, in batches
/// of this size.
const TARGET: f64 = 2.0;
const TARGET_BATCH: usize = 100;

/// Measures and prints the table.
pub fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let engine = Engine::new(32).expect("the engine");
    let shadow = Case::<aws_shadow::AwsShadow>::all("aws-shadow", &json!({}), &engine, &runtime);
    let gateway = Case::<thingsboard_gateway::ThingsBoardGateway>::all(
        "thingsboard-gateway",
        &json!({}),
        &engine,
        &runtime,
    );
    let wialon =
        Case::<wialon_retranslator::Retranslator>::all("wialon-retranslator", &json!({}), &engine, &runtime);
    let http = Case::<http_json::HttpJson>::all("http-json", &json!({}), &engine, &runtime);
    let topic = json!({ "topic": "fleet/{ident}/up" });
    let mqtt = Case::<mqtt_json::MqttJson>::all("mqtt-json", &topic, &engine, &runtime);
    let mut cases: Vec<Box<dyn Measure>> =
        [shadow, gateway, wialon, http, mqtt].into_iter().flatten().collect();

    // `cargo bench --bench script_step -- mqtt-json` measures one adapter.
    let wanted = crate::arguments().nth(1);
    cases.retain(|case| wanted.as_ref().is_none_or(|wanted| case.name() == wanted));

    let size = Fleet::default().next_payload().len();
    common::print_head(
        "Script step: CPU time of the thread per message, WebAssembly against native",
        &[
            ("message", format!("{size} bytes of JSON, 27 flat fields, {DEVICES} devices")),
            ("limits", "the defaults; interruption by epochs on".to_owned()),
            ("rounds", format!("{ROUNDS} of {MESSAGES} messages a side and case, taking turns; medians")),
        ],
    );
    for case in &mut cases {
        case.check(&runtime);
    }
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        for case in &mut cases {
            case.round(round, &runtime);
        }
    }
    println!(
        "  {:<20} {:>5}  {:>11}  {:>11}  {:>6}  min - max",
        "adapter", "batch", "native ns", "wasm ns", "ratio"
    );
    for case in &cases {
        case.print();
    }
    println!("  target: {TARGET:.2} in batches of {TARGET_BATCH}\n");
}

/// A case whose adapter's type is forgotten.
trait Measure {
    fn name(&self) -> &str;
    /// Panics unless both sides make the same of the same messages.
    fn check(&mut self, runtime: &Runtime);
    fn round(&mut self, round: usize, runtime: &Runtime);
    fn print(&self);
}

/// One adapter at one size of batch.
struct Case<S> {
    name: &'static str,
    batch: usize,
    fleet: Fleet,
    native: Instance<S>,
    wasm: Mapper,
    native_ns: Vec<f64>,
    wasm_ns: Vec<f64>,
}

impl<S: BatchScript> Case<S> {
    fn all(
        name: &'static str,
        settings: &Value,
        engine: &Engine,
        runtime: &Runtime,
    ) -> Vec<Box<dyn Measure>> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/adapters/{name}.wasm"));
        let wasm = std::fs::read(&file)
            .unwrap_or_else(|error| panic!("{}: {error}; `make adapters` builds it", file.display()));
        let script = runtime
            .block_on(Script::load(engine, Recipe { settings: settings.clone(), ..Recipe::new(name, wasm) }));
        let script = script.unwrap_or_else(|error| panic!("{name}: {error}"));
        let case = |batch| {
            let log: script::LogSink = Arc::new(move |_, line| panic!("{name} logs: {line}"));
            Box::new(Self {
                name,
                batch,
                // The state of natively run code is one for the thread, so no
                // two cases may speak of the same device.
                fleet: Fleet::named(&format!("{batch:03}")),
                native: Instance::configure(&settings.to_string()).expect("settings"),
                wasm: script.lane(0, &State::default(), log),
                native_ns: Vec::new(),
                wasm_ns: Vec::new(),
            }) as Box<dyn Measure>
        };
        BATCHES.into_iter().map(case).collect()
    }

    fn time_native(&self, batches: &[Vec<RawMessage>]) -> (f64, usize) {
        let start = thread_cpu();
        let deliveries =
            batches.iter().map(|batch| black_box(self.native.transform(black_box(batch))).deliveries.len());
        let deliveries = deliveries.sum();
        (per_message(thread_cpu() - start), deliveries)
    }

    fn time_wasm(&mut self, batches: &[Vec<Message>], runtime: &Runtime) -> (f64, usize) {
        let wasm = &mut self.wasm;
        runtime.block_on(async {
            let mut deliveries = 0;
            let start = thread_cpu();
            for batch in batches {
                let mapping = wasm.transform(black_box(batch)).await.expect("a mapping");
                deliveries += black_box(mapping).deliveries.len();
            }
            (per_message(thread_cpu() - start), deliveries)
        })
    }
}

impl<S: BatchScript> Measure for Case<S> {
    fn name(&self) -> &str {
        self.name
    }

    fn check(&mut self, runtime: &Runtime) {
        let (raw, messages) = self.fleet.batches(self.batch, 10 * self.batch.max(10));
        for (raw, messages) in raw.iter().zip(&messages) {
            let native = self.native.transform(raw);
            let wasm = runtime.block_on(self.wasm.transform(messages)).expect("a mapping");
            let native_deliveries: Vec<script::MappedDelivery> = native
                .deliveries
                .into_iter()
                .map(|delivery| script::MappedDelivery {
                    messages: delivery.messages,
                    target: delivery.target,
                    headers: delivery.headers,
                    body: delivery.body.into(),
                })
                .collect();
            assert!(!native_deliveries.is_empty() && native.rejections.is_empty(), "{}", self.name);
            assert_eq!(native_deliveries, wasm.deliveries, "{}: native and Wasm differ", self.name);
            assert!(wasm.rejections.is_empty(), "{}", self.name);
            assert_eq!(native.filtered, wasm.filtered, "{}", self.name);
        }
    }

    fn round(&mut self, round: usize, runtime: &Runtime) {
        let (raw, messages) = self.fleet.batches(self.batch, MESSAGES);
        // The second one finds the caches filled by the first.
        let (native, wasm) = if round.is_multiple_of(2) {
            let native = self.time_native(&raw);
            (native, self.time_wasm(&messages, runtime))
        } else {
            let wasm = self.time_wasm(&messages, runtime);
            (self.time_native(&raw), wasm)
        };
        assert_eq!(native.1, wasm.1, "{}: native and Wasm differ in deliveries", self.name);
        if round >= WARM_UP_ROUNDS {
            self.native_ns.push(native.0);
            self.wasm_ns.push(wasm.0);
        }
    }

    fn print(&self) {
        let ratios: Vec<f64> = self.wasm_ns.iter().zip(&self.native_ns).map(|(w, n)| w / n).collect();
        let (least, most) = range(&ratios);
        let ratio = median(&ratios);
        println!(
            "  {:<20} {:>5}  {:>11.0}  {:>11.0}  {ratio:>6.2}  {least:.2} - {most:.2}{}",
            self.name,
            self.batch,
            median(&self.native_ns),
            median(&self.wasm_ns),
            if self.batch == TARGET_BATCH && ratio > TARGET { "  MISSED" } else { "" }
        );
    }
}

fn per_message(time: Duration) -> f64 {
    time.as_nanos() as f64 / MESSAGES as f64
}

// ----- the messages -----

/// Devices that report in turns, for ever, with time moving on. The content
/// follows from the count of messages alone.
struct Fleet {
    name: String,
    sent: u64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::named("000")
    }
}

impl Fleet {
    /// A fleet whose devices have this name in their idents; three digits, so
    /// that messages of all fleets have one size.
    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), sent: 0 }
    }

    /// The next messages in batches, once for each side.
    fn batches(&mut self, batch: usize, messages: usize) -> (Vec<Vec<RawMessage>>, Vec<Vec<Message>>) {
        let mut raw = Vec::new();
        for _ in 0..messages.div_ceil(batch) {
            raw.push((0..batch).map(|_| self.next()).collect::<Vec<_>>());
        }
        let message = |raw: &RawMessage| Message {
            topic: raw.topic.as_str().into(),
            payload: raw.payload.clone().into(),
            received_at: raw.received_at,
        };
        let messages = raw.iter().map(|batch| batch.iter().map(message).collect()).collect();
        (raw, messages)
    }

    fn next(&mut self) -> RawMessage {
        let payload = self.next_payload();
        RawMessage {
            topic: format!("flespi/message/gw/devices/{}", 4_100_000 + self.sent % DEVICES),
            payload: payload.into_bytes(),
            received_at: 1_760_000_000_000 + self.sent * 100 + 850,
        }
    }

    /// What flespi publishes for a tracker: flat parameters in the order in
    /// which the device's protocol has them, not sorted.
    fn next_payload(&mut self) -> String {
        self.sent += 1;
        let (device, turn) = (self.sent % DEVICES, self.sent / DEVICES);
        let wave = |period: u64, least: u64, most: u64| {
            least + (turn * 7 + device * 13) % period * (most - least) / period
        };
        format!(
            concat!(
                r#"{{"ident":"35262500{name}{device:04}","timestamp":{seconds}.{millis:03},"#,
                r#""server.timestamp":{seconds}.8{device:02},"channel.id":{channel},"device.id":{id},"#,
                r#""device.type.id":508,"protocol.id":14,"peer":"10.21.{device}.7:{port}","#,
                r#""position.latitude":54.{lat:06},"position.longitude":25.{lon:06},"#,
                r#""position.altitude":{altitude},"position.speed":{speed},"position.direction":{direction:03},"#,
                r#""position.satellites":{satellites},"position.hdop":0.{hdop},"position.valid":true,"#,
                r#""engine.ignition.status":{ignition},"movement.status":{ignition},"din":{din},"#,
                r#""external.powersource.voltage":13.{power:03},"battery.voltage":4.0{battery},"#,
                r#""gsm.signal.level":{signal},"gsm.operator.code":"24601","#,
                r#""can.fuel.volume":{fuel}.{tenth},"can.engine.rpm":{rpm},"vehicle.mileage":{mileage}.{millis:03},"#,
                r#""event.enum":{priority}}}"#,
            ),
            name = self.name,
            device = device,
            seconds = 1_760_000_000 + turn * 2,
            millis = turn * 37 % 1000,
            channel = 1_105_211,
            id = 4_100_000 + device,
            port = 40_000 + device,
            lat = 600_000 + (turn * 131 + device * 1_717) % 300_000,
            lon = 200_000 + (turn * 173 + device * 2_929) % 300_000,
            altitude = wave(40, 105, 180),
            speed = wave(60, 30, 90),
            direction = 100 + wave(120, 0, 250),
            satellites = wave(7, 10, 19),
            hdop = wave(9, 5, 9),
            ignition = if wave(16, 0, 16) > 0 { "true" } else { "false" },
            din = wave(4, 1, 5),
            power = 700 + wave(90, 100, 290),
            battery = wave(9, 1, 9),
            signal = wave(60, 40, 99),
            fuel = wave(50, 20, 70),
            tenth = turn % 10,
            rpm = 1_000 + wave(200, 100, 2_000),
            mileage = 120_000 + turn / 10,
            priority = turn % 3,
        )
    }
}
