//! A simulated fleet that publishes flespi messages. The way, the speed and
//! everything measured follow from the seed alone; only the time of the
//! messages is that of the wall clock.

mod route;
mod vehicle;

use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use serde_json::{Map, Number, Value};
use vehicle::{Readings, Vehicle};

/// Ids of the first device and of the channel, as an account would have them.
const FIRST_DEVICE: u64 = 5_250_001;
const CHANNEL: u64 = 1_205_117;

/// The vehicles.
pub struct Fleet {
    vehicles: Vec<Tracked>,
}

struct Tracked {
    vehicle: Vehicle,
    ident: Arc<str>,
    device_id: u64,
    name: String,
    sequence: u64,
    last_time: u64,
}

/// One message as a vehicle's tracker sent it.
#[derive(Clone, Debug)]
pub struct FleetMessage {
    /// `ident` of the device.
    pub ident: Arc<str>,
    /// Number of the message among those of its device, from 1, without gaps.
    pub sequence: u64,
    /// Milliseconds since the Unix epoch; growing with the sequence.
    pub time: u64,
    /// Where flespi publishes it.
    pub topic: String,
    /// The parameters: flat, dotted names.
    pub fields: Map<String, Value>,
}

impl FleetMessage {
    /// The bytes to publish.
    pub fn payload(&self) -> Bytes {
        // A map of text, numbers and booleans always has a JSON form.
        Bytes::from(serde_json::to_vec(&self.fields).unwrap_or_default())
    }
}

/// The field that holds [`FleetMessage::sequence`].
pub const SEQUENCE: &str = "custom.message.number";

impl Fleet {
    /// A fleet of that size; the same seed gives the same drives.
    pub fn new(seed: u64, size: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let tracked = |index: usize| Tracked {
            vehicle: Vehicle::new(index, rng.fork()),
            ident: imei(index),
            device_id: FIRST_DEVICE + index as u64,
            name: format!("vehicle {:02}", index + 1),
            sequence: 0,
            last_time: 0,
        };
        Self { vehicles: (0..size).map(tracked).collect() }
    }

    /// Number of vehicles.
    pub fn size(&self) -> usize {
        self.vehicles.len()
    }

    /// Lets `seconds` pass for the vehicle of that number (modulo the size)
    /// and returns what its tracker sends at `time`, in Unix milliseconds.
    pub fn step(&mut self, vehicle: usize, seconds: f64, time: u64) -> FleetMessage {
        let size = self.vehicles.len();
        let tracked = &mut self.vehicles[vehicle % size];
        let readings = tracked.vehicle.step(seconds);
        tracked.sequence += 1;
        // Two messages of one device never have the same time.
        tracked.last_time = time.max(tracked.last_time + 1);
        FleetMessage {
            ident: Arc::clone(&tracked.ident),
            sequence: tracked.sequence,
            time: tracked.last_time,
            topic: format!("flespi/message/gw/devices/{}", tracked.device_id),
            fields: fields(tracked, &readings),
        }
    }
}

/// The parameters in alphabetical order, as flespi sends them.
fn fields(tracked: &Tracked, now: &Readings) -> Map<String, Value> {
    let place = &now.place;
    let time = tracked.last_time as f64 / 1000.0;
    let inputs = u64::from(now.ignition) | u64::from(now.door) << 1;
    let mut fields: Vec<(&str, Value)> = vec![
        ("battery.voltage", decimal(4.0 + f64::from(now.signal % 10) / 100.0, 2)),
        ("can.engine.coolant.temperature", decimal(now.coolant, 0)),
        ("can.fuel.volume", decimal(now.fuel_volume, 1)),
        ("channel.id", CHANNEL.into()),
        (SEQUENCE, tracked.sequence.into()),
        ("device.id", tracked.device_id.into()),
        ("device.name", tracked.name.as_str().into()),
        ("device.type.id", 745.into()),
        ("din", inputs.into()),
        ("dout", 0.into()),
        ("engine.ignition.status", now.ignition.into()),
        ("engine.motorhours", decimal(now.motorhours, 3)),
        ("engine.rpm", now.rpm.into()),
        ("external.powersource.voltage", decimal(now.external_voltage, 2)),
        ("fuel.level", decimal(now.fuel_level, 1)),
        ("gsm.operator.code", "24601".into()),
        ("gsm.signal.level", now.signal.into()),
        ("ident", (*tracked.ident).into()),
        ("movement.status", (now.speed > 1.0).into()),
        ("peer", format!("10.20.30.{}:41{:03}", tracked.device_id % 250, tracked.device_id % 999).into()),
        ("position.altitude", decimal(place.altitude, 1)),
        ("position.direction", decimal(place.direction.floor(), 0)),
        ("position.hdop", decimal(0.5 + f64::from(now.signal % 7) / 10.0, 1)),
        ("position.latitude", decimal(place.latitude, 6)),
        ("position.longitude", decimal(place.longitude, 6)),
        ("position.satellites", now.satellites.into()),
        ("position.speed", decimal(now.speed, 1)),
        ("position.valid", true.into()),
        ("protocol.id", 14.into()),
        ("server.timestamp", decimal(time + 0.2, 6)),
        ("timestamp", decimal(time, 3)),
        ("vehicle.mileage", decimal(now.odometer, 3)),
    ];
    if now.alarm {
        fields.insert(0, ("alarm.event", true.into()));
    }
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A number with at most that many decimals; whole numbers without a point.
fn decimal(value: f64, decimals: u8) -> Value {
    let scale = 10_f64.powi(i32::from(decimals));
    let rounded = (value * scale).round() / scale;
    if rounded.fract() == 0.0 && rounded.abs() < 9e15 {
        return Value::from(rounded as i64);
    }
    Number::from_f64(rounded).map_or(Value::Null, Value::Number)
}

/// Fifteen digits with a valid check digit (Luhn), as trackers have them.
fn imei(index: usize) -> Arc<str> {
    let digits = format!("352093{:08}", 8_172_311 + index * 37);
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0');
            let doubled = if place % 2 == 0 { digit * 2 } else { digit };
            doubled / 10 + doubled % 10
        })
        .sum();
    format!("{digits}{}", (10 - sum % 10) % 10).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn drive(seed: u64, seconds: u64) -> Vec<FleetMessage> {
        let mut fleet = Fleet::new(seed, 25);
        let at = |second: u64| 1_700_000_000_000 + second * 1000;
        (0..seconds)
            .flat_map(|s| (0..25).map(move |v| (s, v)))
            .map(|(s, v)| fleet.step(v, 1.0, at(s)))
            .collect()
    }

    fn number(message: &FleetMessage, field: &str) -> f64 {
        message.fields[field].as_f64().unwrap()
    }

    #[test]
    fn same_seed_gives_same_drive() {
        let payloads = |seed| drive(seed, 20).iter().map(FleetMessage::payload).collect::<Vec<_>>();
        assert_eq!(payloads(7), payloads(7));
        assert_ne!(payloads(7), payloads(8));
    }

    #[test]
    fn vehicles_drive_stop_turn_off_and_burn_fuel() {
        let messages = drive(1, 600);
        let first = |field: &str| number(&messages[0], field);
        let of_first: Vec<_> = messages.iter().filter(|m| m.ident == messages[0].ident).collect();
        let last = |field: &str| number(of_first.last().unwrap(), field);
        assert!(last("vehicle.mileage") > first("vehicle.mileage") + 1.0);
        assert!(last("engine.motorhours") > first("engine.motorhours"));
        let speeds: Vec<f64> = messages.iter().map(|m| number(m, "position.speed")).collect();
        assert!(speeds.iter().all(|speed| (0.0..=80.5).contains(speed)));
        assert!(speeds.iter().any(|speed| *speed > 60.0));
        let off = messages.iter().filter(|m| m.fields["engine.ignition.status"] == false).count();
        assert!((messages.len() / 50..messages.len() * 2 / 3).contains(&off), "{off} of {}", messages.len());
        let fuel: Vec<f64> = messages.iter().map(|m| number(m, "fuel.level")).collect();
        assert!(fuel.iter().all(|level| (0.0..=100.0).contains(level)));
        assert!(messages.iter().any(|m| m.fields.contains_key("alarm.event")));
    }

    #[test]
    fn positions_move_as_the_speed_says() {
        let messages = drive(3, 300);
        for ident in messages.iter().take(25).map(|m| &m.ident) {
            let of_one: Vec<_> = messages.iter().filter(|m| m.ident == *ident).collect();
            for pair in of_one.windows(2) {
                let way = |field: &str| number(pair[1], field) - number(pair[0], field);
                let latitude = number(pair[0], "position.latitude").to_radians();
                let metres = (way("position.latitude") * 111_320.0)
                    .hypot(way("position.longitude") * 111_320.0 * latitude.cos());
                let speed = number(pair[1], "position.speed") / 3.6;
                assert!(metres <= speed + 1.0, "{ident}: {metres} m at {speed} m/s");
            }
        }
    }

    #[test]
    fn messages_look_like_those_of_flespi() {
        for message in drive(5, 3) {
            assert!(message.ident.len() == 15 && message.ident.bytes().all(|b| b.is_ascii_digit()));
            let keys: Vec<&String> = message.fields.keys().collect();
            assert!(keys.is_sorted(), "{keys:?}");
            assert!((500..1200).contains(&message.payload().len()), "{}", message.payload().len());
            assert_eq!(number(&message, "timestamp"), message.time as f64 / 1000.0);
            assert_eq!(message.fields[SEQUENCE], message.sequence);
        }
        assert_eq!(&*imei(0), "352093081723115");
    }
}
