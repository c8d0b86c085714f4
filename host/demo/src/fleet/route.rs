//! Where a vehicle drives: a closed line through a town, on the globe.

use fastrand::Rng;

/// Metres of one degree of latitude.
const DEGREE: f64 = 111_320.0;

/// Towns that the vehicles are spread over: latitude, longitude, altitude in metres.
const TOWNS: [(f64, f64, f64); 8] = [
    (54.6872, 25.2797, 112.0),
    (52.5200, 13.4050, 38.0),
    (48.2082, 16.3738, 171.0),
    (50.0755, 14.4378, 244.0),
    (41.3874, 2.1686, 35.0),
    (59.4370, 24.7536, 9.0),
    (45.4642, 9.1900, 122.0),
    (-33.4489, -70.6693, 556.0),
];

/// Speed limits of streets, km/h.
const LIMITS: [f64; 4] = [30.0, 50.0, 50.0, 80.0];

/// A closed route of straight streets.
pub struct Route {
    legs: Vec<Leg>,
    length: f64,
    altitude: f64,
}

/// One straight street.
struct Leg {
    from: Point,
    to: Point,
    /// Metres from the start of the route.
    start: f64,
    length: f64,
    limit: f64,
    stop: bool,
}

#[derive(Clone, Copy)]
struct Point {
    latitude: f64,
    longitude: f64,
}

/// A place on a route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Degrees, WGS84.
    pub latitude: f64,
    /// Degrees, WGS84.
    pub longitude: f64,
    /// Metres above the sea.
    pub altitude: f64,
    /// Degrees from north, clockwise; below 360.
    pub direction: f64,
    /// What may be driven here, km/h.
    pub limit: f64,
    /// Metres to the next corner.
    pub to_corner: f64,
    /// Whether the vehicle has business at that corner.
    pub stop_ahead: bool,
    /// Number of the street.
    pub leg: usize,
}

impl Route {
    /// A route in the town of that number (modulo the number of towns).
    pub fn new(town: usize, rng: &mut Rng) -> Self {
        let (latitude, longitude, altitude) = TOWNS[town % TOWNS.len()];
        let mut at = Point {
            latitude: latitude + (rng.f64() - 0.5) * 0.06,
            longitude: longitude + (rng.f64() - 0.5) * 0.1,
        };
        let start = at;
        let mut corners = vec![start];
        let mut heading = rng.f64() * 360.0;
        for _ in 0..rng.usize(8..16) {
            at = at.moved(heading, 150.0 + rng.f64() * 650.0);
            corners.push(at);
            heading += if rng.bool() { 90.0 } else { -90.0 } + (rng.f64() - 0.5) * 30.0;
        }
        corners.push(start);

        let mut legs = Vec::new();
        let mut length = 0.0;
        for pair in corners.windows(2) {
            let &[from, to] = pair else { continue };
            let metres = from.distance(to);
            let limit = LIMITS[rng.usize(0..LIMITS.len())];
            legs.push(Leg { from, to, start: length, length: metres, limit, stop: rng.u8(0..3) == 0 });
            length += metres;
        }
        Self { legs, length, altitude }
    }

    /// Metres around.
    pub fn length(&self) -> f64 {
        self.length
    }

    /// The place after so many metres from the start; the route goes round.
    pub fn at(&self, metres: f64) -> Place {
        let metres = metres.rem_euclid(self.length);
        let index = self.legs.partition_point(|leg| leg.start <= metres).saturating_sub(1);
        let leg = &self.legs[index];
        let share = ((metres - leg.start) / leg.length).clamp(0.0, 1.0);
        let between = |a: f64, b: f64| a + (b - a) * share;
        let hills = (metres / self.length * std::f64::consts::TAU).sin() * 14.0;
        Place {
            latitude: between(leg.from.latitude, leg.to.latitude),
            longitude: between(leg.from.longitude, leg.to.longitude),
            altitude: self.altitude + hills,
            direction: leg.from.bearing(leg.to),
            limit: leg.limit,
            to_corner: leg.start + leg.length - metres,
            stop_ahead: leg.stop,
            leg: index,
        }
    }
}

impl Point {
    fn moved(self, heading: f64, metres: f64) -> Self {
        let (east, north) = heading.to_radians().sin_cos();
        Self {
            latitude: self.latitude + metres * north / DEGREE,
            longitude: self.longitude + metres * east / (DEGREE * self.latitude.to_radians().cos()),
        }
    }

    /// Metres to the east and to the north; exact enough within a town.
    fn way(self, to: Self) -> (f64, f64) {
        let east = (to.longitude - self.longitude) * DEGREE * self.latitude.to_radians().cos();
        (east, (to.latitude - self.latitude) * DEGREE)
    }

    fn distance(self, to: Self) -> f64 {
        let (east, north) = self.way(to);
        east.hypot(north)
    }

    fn bearing(self, to: Self) -> f64 {
        let (east, north) = self.way(to);
        east.atan2(north).to_degrees().rem_euclid(360.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_is_closed_and_continuous() {
        for seed in 0..50 {
            let route = Route::new(usize::from(seed as u8), &mut Rng::with_seed(seed));
            let mut before = route.at(-1.0);
            for metre in 0..=route.length() as u32 {
                let place = route.at(f64::from(metre));
                let from = Point { latitude: before.latitude, longitude: before.longitude };
                let to = Point { latitude: place.latitude, longitude: place.longitude };
                assert!(from.distance(to) < 2.1, "seed {seed}, metre {metre}: {}", from.distance(to));
                assert!((0.0..360.0).contains(&place.direction) && place.to_corner >= 0.0);
                before = place;
            }
        }
    }
}
