//! What may be published to a ThingsBoard gateway connection. The platform
//! acknowledges a publish on a gateway topic that it does not know and drops
//! it, and closes the connection on a packet that is too large, so both are
//! told apart here. Source: ThingsBoard's `MqttTopics`, `MqttTransportHandler`
//! and gateway session handler (4.x), and its documented gateway MQTT API.

use crate::Delivery;
use crate::mqtt::rules::{check_publish, publish_size};

/// The header with the name of the device that a delivery's data is of.
pub(super) const DEVICE: &str = "device";
/// The header with its profile.
pub(super) const DEVICE_TYPE: &str = "device-type";
/// Where the platform is told of a device, and tells the end of its session.
pub(super) const CONNECT: &str = "v1/gateway/connect";
pub(super) const DISCONNECT: &str = "v1/gateway/disconnect";

/// Topics that carry data of devices behind the gateway.
const DATA: [&str; 5] = [
    "v1/gateway/telemetry",
    "v1/gateway/attributes",
    "v1/gateway/attributes/request",
    "v1/gateway/rpc",
    "v1/gateway/claim",
];
/// Topics of the gateway's own.
const OWN: [&str; 4] = [CONNECT, DISCONNECT, "v1/devices/me/telemetry", "v1/devices/me/attributes"];
/// Followed by a number.
const OWN_RPC: &str = "v1/devices/me/rpc/request/";
/// `NETTY_MAX_PAYLOAD_SIZE` counts the packet; one byte less is safe.
const MAX_PACKET: usize = 65_535;
/// Longest name of a device or a profile, characters.
const MAX_NAME: usize = 255;

/// Whether the delivery may be sent at all.
pub(super) fn check(delivery: &Delivery) -> Result<(), String> {
    let Some(topic) = delivery.target.as_deref() else {
        return Err(
            "the delivery has no target; expected a gateway topic such as v1/gateway/telemetry".to_owned()
        );
    };
    if !known(topic) {
        return Err(format!(
            "ThingsBoard has no topic {topic:?}; expected v1/gateway/telemetry, /attributes, /attributes/request, \
             /rpc, /claim, /connect or /disconnect, or v1/devices/me/telemetry, /attributes or /rpc/request/<id>"
        ));
    }
    for header in [DEVICE, DEVICE_TYPE] {
        if let Some(name) = delivery.header(header) {
            check_name(header, name)?;
        }
    }
    check_publish(topic, delivery)?;
    let kept = delivery.headers.iter().filter(|(n, _)| !consumed(n)).map(|(n, v)| (n.as_str(), v.as_str()));
    let size = publish_size(topic, kept, delivery.body.len());
    if size > MAX_PACKET {
        return Err(format!("the publish has {size} bytes; ThingsBoard takes {MAX_PACKET} at most"));
    }
    Ok(())
}

/// The device that has to be connected before the delivery goes out.
pub(super) fn device(delivery: &Delivery) -> Option<&str> {
    let topic = delivery.target.as_deref()?;
    if DATA.contains(&topic) { delivery.header(DEVICE) } else { None }
}

/// Whether a header is for this destination and is not sent on.
pub(super) fn consumed(header: &str) -> bool {
    header.eq_ignore_ascii_case(DEVICE) || header.eq_ignore_ascii_case(DEVICE_TYPE)
}

fn known(topic: &str) -> bool {
    let own_rpc = |id: &str| !id.is_empty() && id.len() <= 9 && id.bytes().all(|b| b.is_ascii_digit());
    DATA.contains(&topic) || OWN.contains(&topic) || topic.strip_prefix(OWN_RPC).is_some_and(own_rpc)
}

fn check_name(header: &str, name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err(format!("the header `{header}` is blank; expected a name"));
    }
    let length = name.chars().count();
    if length > MAX_NAME {
        return Err(format!("the header `{header}` has {length} characters; ThingsBoard allows {MAX_NAME}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::mqtt::testing::delivery;

    #[test]
    fn only_topics_that_the_platform_knows() {
        for topic in DATA.iter().chain(&OWN).chain(&["v1/devices/me/rpc/request/17"]) {
            assert_eq!(check(&delivery(topic, &[], "{}")), Ok(()), "{topic}");
        }
        for topic in [
            "v1/gateway/telemetrie",
            "v1/gateway",
            "v1/gateway/telemetry/",
            "v1/gateway/+",
            "v1/devices/me/rpc/request/",
            "v1/devices/me/rpc/request/x",
            "/provision/request",
            "a/b",
            "",
        ] {
            let said = check(&delivery(topic, &[], "{}")).unwrap_err();
            assert!(said.contains("ThingsBoard has no topic"), "{said}");
        }
        let nowhere = Delivery { target: None, headers: Vec::new(), body: "{}".into(), identity: None };
        assert!(check(&nowhere).unwrap_err().contains("no target"));
    }

    #[test]
    fn a_publish_stays_below_64_kib() {
        let topic = "v1/gateway/telemetry";
        // Fixed header, topic with its length, packet identifier, no properties.
        let overhead = 1 + 3 + 2 + topic.len() + 2 + 1;
        // A consumed header is not part of the packet.
        let with = |body: usize| check(&delivery(topic, &[("device", "d")], "x".repeat(body)));
        assert_eq!(with(65_535 - overhead), Ok(()));
        assert!(with(65_536 - overhead).unwrap_err().contains("65536 bytes"));
    }

    #[test]
    fn names() {
        let with = |name: &str| check(&delivery("v1/gateway/telemetry", &[("Device", name)], "{}"));
        assert_eq!(with(&"ä".repeat(255)), Ok(()));
        assert!(with(&"ä".repeat(256)).unwrap_err().contains("256 characters"));
        assert!(with(" ").unwrap_err().contains("blank"));
    }

    #[test]
    fn only_data_of_devices_waits_for_a_connect() {
        let of = |topic: &str| device(&delivery(topic, &[("device", "d")], "{}")).map(str::to_owned);
        assert_eq!(of("v1/gateway/telemetry").as_deref(), Some("d"));
        assert_eq!(of("v1/gateway/attributes").as_deref(), Some("d"));
        assert_eq!(of(CONNECT), None);
        assert_eq!(of(DISCONNECT), None);
        assert_eq!(of("v1/devices/me/telemetry"), None);
    }
}
