//! Which devices the platform knows in this connection. A device's data may
//! go out only after its `connect` was acknowledged: data of an unknown device
//! would create it with the wrong profile. Plain state without I/O.

use std::collections::{HashMap, VecDeque};

/// The devices of one connection; `T` is what waits for a device.
#[derive(Debug)]
pub(super) struct Devices<T> {
    known: HashMap<String, Device<T>>,
}

#[derive(Debug)]
enum Device<T> {
    /// `connect` is on its way; these wait for its PUBACK, in order.
    Connecting(VecDeque<T>),
    Connected,
}

/// What is to be done with data of a device.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission<T> {
    /// It goes out.
    Send(T),
    /// It is held, and `connect` of the device goes out.
    Connect,
    /// It is held behind a `connect` that is on its way.
    Hold,
}

impl<T> Default for Devices<T> {
    fn default() -> Self {
        Self { known: HashMap::new() }
    }
}

impl<T> Devices<T> {
    /// Data of a device wants to go out.
    pub(super) fn admit(&mut self, device: &str, data: T) -> Admission<T> {
        match self.known.get_mut(device) {
            Some(Device::Connected) => Admission::Send(data),
            Some(Device::Connecting(held)) => {
                held.push_back(data);
                Admission::Hold
            }
            None => {
                self.known.insert(device.to_owned(), Device::Connecting(VecDeque::from([data])));
                Admission::Connect
            }
        }
    }

    /// The `connect` was acknowledged: what waited for it, in order, goes out.
    pub(super) fn connected(&mut self, device: &str) -> VecDeque<T> {
        match self.known.insert(device.to_owned(), Device::Connected) {
            Some(Device::Connecting(held)) => held,
            Some(Device::Connected) | None => VecDeque::new(),
        }
    }

    /// The `connect` was not accepted: what waited for it, in order, cannot go
    /// out. The next data tries again.
    pub(super) fn refused(&mut self, device: &str) -> VecDeque<T> {
        match self.known.remove(device) {
            Some(Device::Connecting(held)) => held,
            Some(Device::Connected) | None => VecDeque::new(),
        }
    }

    /// The device's session is over: the next data connects it again.
    pub(super) fn disconnected(&mut self, device: &str) {
        // While `connect` is on its way, its PUBACK decides.
        if matches!(self.known.get(device), Some(Device::Connected)) {
            self.known.remove(device);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn data_waits_for_the_connect_of_its_device_and_for_no_other() {
        let mut devices = Devices::default();
        assert_eq!(devices.admit("a", 1), Admission::Connect);
        assert_eq!(devices.admit("a", 2), Admission::Hold);
        assert_eq!(devices.admit("b", 3), Admission::Connect);
        assert_eq!(devices.connected("b"), [3]);
        assert_eq!(devices.admit("b", 4), Admission::Send(4));
        assert_eq!(devices.admit("a", 5), Admission::Hold);
        assert_eq!(devices.connected("a"), [1, 2, 5]);
        assert_eq!(devices.admit("a", 6), Admission::Send(6));
    }

    #[test]
    fn a_refused_connect_is_tried_again_by_the_next_data() {
        let mut devices = Devices::default();
        assert_eq!(devices.admit("a", 1), Admission::Connect);
        assert_eq!(devices.refused("a"), [1]);
        assert_eq!(devices.admit("a", 2), Admission::Connect);
    }

    #[test]
    fn a_device_that_the_platform_disconnects_is_connected_again() {
        let mut devices = Devices::default();
        assert_eq!(devices.admit("a", 1), Admission::Connect);
        devices.disconnected("a");
        assert_eq!(devices.admit("a", 2), Admission::Hold);
        assert_eq!(devices.connected("a"), [1, 2]);
        devices.disconnected("a");
        assert_eq!(devices.admit("a", 3), Admission::Connect);
    }

    proptest! {
        /// Nothing is lost, doubled or reordered within a device, and nothing
        /// goes out before a connect was acknowledged.
        #[test]
        fn order_within_a_device(steps in proptest::collection::vec((0_usize..3, 0_u8..4), 1..100)) {
            let names = ["a", "b", "c"];
            let mut devices = Devices::default();
            let mut out: [Vec<u32>; 3] = Default::default();
            let mut given: [Vec<u32>; 3] = Default::default();
            let mut connecting = [false; 3];
            let mut connected = [false; 3];
            for (n, (device, step)) in steps.into_iter().enumerate() {
                match step {
                    0 if connecting[device] => {
                        out[device].extend(devices.connected(names[device]));
                        (connecting[device], connected[device]) = (false, true);
                    }
                    1 if connected[device] => {
                        devices.disconnected(names[device]);
                        connected[device] = false;
                    }
                    _ => {
                        let data = u32::try_from(n).unwrap_or_default();
                        given[device].push(data);
                        match devices.admit(names[device], data) {
                            Admission::Send(data) => {
                                prop_assert!(connected[device]);
                                out[device].push(data);
                            }
                            Admission::Connect => {
                                prop_assert!(!connected[device] && !connecting[device]);
                                connecting[device] = true;
                            }
                            Admission::Hold => prop_assert!(connecting[device]),
                        }
                    }
                }
            }
            for device in 0..3 {
                if connecting[device] {
                    out[device].extend(devices.connected(names[device]));
                }
            }
            prop_assert_eq!(out, given);
        }
    }
}
