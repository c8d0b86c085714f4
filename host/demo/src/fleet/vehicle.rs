//! One vehicle: it accelerates, brakes for corners, stops for business, turns
//! its engine off, burns fuel and fills up.

use fastrand::Rng;

use super::route::{Place, Route};

/// Metres per second and second.
const ACCELERATION: f64 = 1.6;
/// Metres per second and second, when everything is as usual.
const BRAKING: f64 = 2.2;
/// What a corner is driven with, metres per second.
const CORNER_SPEED: f64 = 6.0;
/// Percent of the tank at which the next stop is at a filling station.
const LOW_FUEL: f64 = 15.0;
/// Seconds of a stop after which the engine is turned off.
const ENGINE_OFF_AFTER: f64 = 4.0;

/// A vehicle on its route.
pub struct Vehicle {
    route: Route,
    rng: Rng,
    /// Metres from the start of the route, growing for ever.
    driven: f64,
    /// Metres per second.
    speed: f64,
    state: State,
    /// The street whose end it has stopped at, so as not to stop there twice.
    stopped_at: Option<usize>,
    odometer: f64,
    fuel: f64,
    tank: f64,
    consumption: f64,
    engine_seconds: f64,
    coolant: f64,
    external_voltage: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Driving,
    /// Seconds since the stop began, and until it ends.
    Stopped {
        since: f64,
        left: f64,
    },
}

/// What its tracker measures at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Readings {
    /// Where it is.
    pub place: Place,
    /// km/h.
    pub speed: f64,
    /// Whether the engine runs.
    pub ignition: bool,
    /// Whether the door stands open.
    pub door: bool,
    /// km since it was built.
    pub odometer: f64,
    /// Percent of the tank.
    pub fuel_level: f64,
    /// Litres in the tank.
    pub fuel_volume: f64,
    /// Hours.
    pub motorhours: f64,
    /// Turns per minute.
    pub rpm: u32,
    /// Degrees Celsius.
    pub coolant: f64,
    /// Volts of the vehicle's battery.
    pub external_voltage: f64,
    /// Satellites in use.
    pub satellites: u8,
    /// Percent.
    pub signal: u8,
    /// The driver pressed the button.
    pub alarm: bool,
}

impl Vehicle {
    /// A vehicle somewhere on a route of its own in that town.
    pub fn new(town: usize, mut rng: Rng) -> Self {
        let route = Route::new(town, &mut rng);
        let driven = rng.f64() * route.length();
        let state = if rng.u8(0..5) == 0 {
            State::Stopped { since: ENGINE_OFF_AFTER, left: 3.0 + rng.f64() * 20.0 }
        } else {
            State::Driving
        };
        let heavy = rng.bool();
        let tank = if heavy { 400.0 } else { 60.0 };
        Self {
            driven,
            speed: if state == State::Driving { CORNER_SPEED } else { 0.0 },
            state,
            stopped_at: None,
            odometer: 12_000.0 + rng.f64() * 300_000.0,
            fuel: tank * (0.1 + rng.f64() * 0.85),
            tank,
            consumption: if heavy { 27.0 } else { 8.5 },
            engine_seconds: rng.f64() * 9_000_000.0,
            coolant: 60.0 + rng.f64() * 28.0,
            external_voltage: 12.4,
            route,
            rng,
        }
    }

    /// Lets `seconds` pass and reads the instruments.
    pub fn step(&mut self, seconds: f64) -> Readings {
        match self.state {
            State::Driving => self.drive(seconds),
            State::Stopped { since, left } => self.wait(since, left, seconds),
        }
        let ignition = self.ignition();
        if ignition {
            self.engine_seconds += seconds;
            self.fuel = (self.fuel - seconds * 0.8 / 3600.0).max(0.0);
        }
        let warm = if ignition { 88.0 } else { 20.0 };
        self.coolant += (warm - self.coolant) * (seconds / 300.0).min(1.0);
        let charging = if ignition { 13.9 } else { 12.5 };
        self.external_voltage += (charging - self.external_voltage) * (seconds / 3.0).min(1.0);
        let idle_or_driving = (820.0 + self.speed * 95.0) as u32 + self.rng.u32(0..30);
        Readings {
            place: self.route.at(self.driven),
            speed: self.speed * 3.6,
            ignition,
            door: matches!(self.state, State::Stopped { since, .. } if since > 1.0),
            odometer: self.odometer,
            fuel_level: self.fuel / self.tank * 100.0,
            fuel_volume: self.fuel,
            motorhours: self.engine_seconds / 3600.0,
            rpm: if ignition { idle_or_driving } else { 0 },
            coolant: self.coolant,
            external_voltage: self.external_voltage,
            satellites: self.rng.u8(8..17),
            signal: self.rng.u8(60..100),
            alarm: self.rng.u16(0..400) == 0,
        }
    }

    fn ignition(&self) -> bool {
        match self.state {
            State::Driving => true,
            State::Stopped { since, .. } => since < ENGINE_OFF_AFTER,
        }
    }

    fn drive(&mut self, seconds: f64) {
        let place = self.route.at(self.driven);
        let stop_here = place.stop_ahead || self.fuel / self.tank * 100.0 < LOW_FUEL;
        let stopping = stop_here && self.stopped_at != Some(place.leg);
        if stopping && place.to_corner < 4.0 && self.speed < 3.0 {
            let left = 5.0 + self.rng.f64() * 25.0;
            self.state = State::Stopped { since: 0.0, left };
            self.stopped_at = Some(place.leg);
            self.speed = 0.0;
            return;
        }
        let at_corner = if stopping { 1.5 } else { CORNER_SPEED };
        // What can still be braked to the corner's speed on the way to it.
        let room = (place.to_corner - self.speed * seconds).max(0.0);
        let allowed = (at_corner * at_corner + 2.0 * BRAKING * room).sqrt().min(place.limit / 3.6);
        self.speed = if self.speed < allowed {
            (self.speed + ACCELERATION * seconds).min(allowed)
        } else {
            (self.speed - 2.0 * BRAKING * seconds).max(allowed)
        };
        let mut metres = self.speed * seconds;
        if stopping {
            metres = metres.min((place.to_corner - 1.0).max(0.0));
        }
        self.driven += metres;
        self.odometer += metres / 1000.0;
        self.fuel = (self.fuel - metres / 100_000.0 * self.consumption).max(0.0);
        if self.stopped_at.is_some_and(|leg| leg != self.route.at(self.driven).leg) {
            self.stopped_at = None;
        }
    }

    fn wait(&mut self, since: f64, left: f64, seconds: f64) {
        if self.fuel / self.tank * 100.0 < LOW_FUEL {
            self.fuel = self.tank * 0.95;
        }
        self.state = if left > seconds {
            State::Stopped { since: since + seconds, left: left - seconds }
        } else {
            State::Driving
        };
    }
}
