//! The encoder of the adapter `wialon-retranslator` and the decoder of the
//! gateway were written apart; here they check each other on any packet.

#![allow(clippy::unwrap_used)]

use destination::wialon::decode::{self, decode, frame};
use proptest::prelude::*;
use sluicegate_sdk::{Instance, testing};
use wialon_retranslator::Retranslator;
use wialon_retranslator::packet::{Block, Name, Packet, Posinfo, Value};

fn posinfo() -> impl Strategy<Value = Posinfo> {
    let degrees = prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL;
    (degrees, degrees, degrees, any::<u16>(), any::<u16>(), any::<u8>())
        .prop_map(|(lon, lat, alt, speed, course, sats)| Posinfo { lon, lat, alt, speed, course, sats })
}

fn block() -> impl Strategy<Value = Block<'static>> {
    let finite = prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL;
    let named = (
        "[ -~]{1,38}",
        prop_oneof![
            "[^\0]{0,80}".prop_map(|text| Value::Text(text.into())),
            any::<i32>().prop_map(Value::Int),
            finite.prop_map(Value::Double),
            any::<i64>().prop_map(Value::Long),
        ],
    );
    prop_oneof![
        5 => named,
        1 => (Just("posinfo".to_owned()), posinfo().prop_map(Value::Posinfo)),
    ]
    .prop_flat_map(|(name, value)| (Just(name), any::<bool>(), Just(value)))
    .prop_map(|(name, hidden, value)| Block { name: Name::new(&name).unwrap(), hidden, value })
}

/// The encoder's value as the decoder must report it.
fn seen(value: &Value<'_>) -> decode::Value {
    match value {
        Value::Text(text) => decode::Value::Text(text.to_string()),
        Value::Posinfo(Posinfo { lon, lat, alt, speed, course, sats }) => {
            decode::Value::Posinfo(decode::Posinfo {
                lon: *lon,
                lat: *lat,
                alt: *alt,
                speed: *speed,
                course: *course,
                sats: *sats,
            })
        }
        Value::Int(number) => decode::Value::Int32(*number),
        Value::Double(number) => decode::Value::Double(*number),
        Value::Long(number) => decode::Value::Int64(*number),
    }
}

proptest! {
    #[test]
    fn decoder_reverses_encoder(
        uid in "[ -~]{1,40}",
        time in any::<u32>(),
        flags in any::<u32>(),
        blocks in prop::collection::vec(block(), 0..12),
    ) {
        let packet = Packet { uid: &uid, time, flags, blocks };
        let bytes = packet.encode().unwrap();
        prop_assert_eq!(bytes.len(), packet.size());
        prop_assert_eq!(frame(&bytes, u32::MAX), Ok(Some(bytes.len())));

        let decoded = decode(&bytes).unwrap();
        prop_assert_eq!(decoded.size as usize, bytes.len() - 4);
        prop_assert_eq!(&decoded.uid, &uid);
        prop_assert_eq!(decoded.time, time);
        prop_assert_eq!(decoded.flags, flags);
        prop_assert_eq!(decoded.blocks.len(), packet.blocks.len());
        for (got, sent) in decoded.blocks.iter().zip(&packet.blocks) {
            prop_assert_eq!(&got.name, &sent.name.to_string());
            prop_assert_eq!(got.hidden, sent.hidden);
            prop_assert_eq!(&got.value, &seen(&sent.value));
            prop_assert_eq!(got.size as usize + 6, sent.size());
        }
    }

    /// Whatever the parameters are: packets within the limit, all of the same
    /// unit, time and position, that hold each parameter once and in order.
    #[test]
    fn message_of_any_size_is_split_without_loss(
        values in prop::collection::vec(
            prop_oneof![
                any::<i64>().prop_map(|number| number.to_string()),
                any::<i32>().prop_map(|number| format!("{number}.5")),
                "[a-z]{0,150}".prop_map(|text| format!("\"{text}\"")),
            ],
            0..60,
        ),
        max_packet in 256_usize..2000,
    ) {
        let fields: String =
            values.iter().enumerate().map(|(number, value)| format!(",\"p.{number}\":{value}")).collect();
        let payload = format!(
            "{{\"ident\":\"352625333222111\",\"timestamp\":1700000000,\
             \"position.latitude\":1.5,\"position.longitude\":2.5,\"din\":1{fields}}}"
        );
        let instance =
            Instance::<Retranslator>::configure(&format!("{{\"max_packet\":{max_packet}}}")).unwrap();
        let mapping = instance.transform(&[testing::message(payload)]);
        prop_assert!(mapping.rejections.is_empty() && mapping.filtered.is_empty());

        let mut names = Vec::new();
        for (number, delivery) in mapping.deliveries.iter().enumerate() {
            prop_assert!(delivery.body.len() <= max_packet);
            prop_assert_eq!(&delivery.messages, &[0]);
            let packet = decode(&delivery.body).unwrap();
            prop_assert_eq!((packet.uid.as_str(), packet.time), ("352625333222111", 1_700_000_000));
            prop_assert_eq!(packet.flags, if number == 0 { 0x03 } else { 0x01 });
            prop_assert_eq!(&packet.blocks[0].name, "posinfo");
            names.extend(packet.blocks.into_iter().skip(1).map(|block| block.name));
        }
        let mut expected = vec!["avl_inputs".to_owned()];
        expected.extend((0..values.len()).map(|number| format!("p_{number}")));
        prop_assert_eq!(names, expected);
    }

    /// Cut or damaged bytes of a good packet are read or refused, never a panic.
    #[test]
    fn damage_never_panics(
        blocks in prop::collection::vec(block(), 0..6),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let packet = Packet { uid: "352625333222111", time: 1_700_000_000, flags: 0, blocks };
        let mut bytes = packet.encode().unwrap();
        let _ = decode(&bytes[..at.index(bytes.len())]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Err(error) = decode(&bytes) {
            prop_assert!(error.offset <= bytes.len());
        }
    }
}
