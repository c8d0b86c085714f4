//! The encoder against published packets and packets made by hand
//! (tests/vectors.json says where each comes from).

#![allow(clippy::unwrap_used)]

use serde_json::Value as Json;

use super::*;

/// Valid packets that this encoder must refuse or cannot say, with the reason.
const INEXPRESSIBLE: [(&str, &str); 5] = [
    ("image_type_6", "no image blocks"),
    ("other_binary", "binary is for posinfo only"),
    ("utf8", "unit id and name outside ASCII"),
    ("not_finite", "NaN and infinities"),
    ("odd_but_legal", "a name of 39 bytes"),
];

fn vectors() -> Json {
    serde_json::from_str(include_str!("../tests/vectors.json")).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn block(tree: &Json) -> Option<Block<'_>> {
    let value = &tree["value"];
    Some(Block {
        name: Name::new(tree["name"].as_str().unwrap())?,
        hidden: tree["hidden"].as_bool().unwrap(),
        value: match tree["type"].as_str().unwrap() {
            "text" => Value::Text(value.as_str().unwrap().into()),
            "int32" => Value::Int(value.as_i64().unwrap().try_into().unwrap()),
            "double" => Value::Double(value.as_f64()?),
            "int64" => Value::Long(value.as_i64().unwrap()),
            "binary" => Value::Posinfo(Posinfo {
                lon: value["lon"].as_f64()?,
                lat: value["lat"].as_f64().unwrap(),
                alt: value["alt"].as_f64().unwrap(),
                speed: value["speed"].as_u64().unwrap().try_into().unwrap(),
                course: value["course"].as_u64().unwrap().try_into().unwrap(),
                sats: value["sats"].as_u64().unwrap().try_into().unwrap(),
            }),
            _ => return None,
        },
    })
}

fn packet(tree: &Json) -> Option<Packet<'_>> {
    Some(Packet {
        uid: tree["uid"].as_str().unwrap(),
        time: tree["time"].as_u64().unwrap().try_into().unwrap(),
        flags: tree["flags"].as_u64().unwrap().try_into().unwrap(),
        blocks: tree["blocks"].as_array().unwrap().iter().map(block).collect::<Option<_>>()?,
    })
}

#[test]
fn every_expressible_packet_is_encoded_to_the_byte() {
    let vectors = vectors();
    let mut inexpressible = Vec::new();
    for vector in vectors["valid"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let trees = vector["packets"].as_array().unwrap();
        let Some(packets) = trees.iter().map(packet).collect::<Option<Vec<_>>>() else {
            inexpressible.push(name);
            continue;
        };
        let mut bytes = Vec::new();
        for packet in &packets {
            let encoded = packet.encode().unwrap();
            assert_eq!(encoded.len(), packet.size(), "{name}");
            bytes.extend(encoded);
        }
        assert_eq!(bytes, unhex(vector["hex"].as_str().unwrap()), "{name}");
    }
    assert_eq!(inexpressible, INEXPRESSIBLE.map(|(name, _)| name));
}

#[test]
fn what_has_no_encoding_is_refused() {
    let with = |uid, value| {
        let blocks = vec![Block { name: Name::new("x").unwrap(), hidden: false, value }];
        Packet { uid, time: 1, flags: 0, blocks }.encode()
    };
    assert_eq!(with("", Value::Int(1)), Err(EncodeError::EmptyUid));
    for uid in ["блок", "a\0b", "a\nb", "\u{7f}"] {
        assert_eq!(with(uid, Value::Int(1)), Err(EncodeError::Uid(uid.into())));
    }
    assert_eq!(with("a", Value::Text("b\0".into())), Err(EncodeError::Nul("x".into())));
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(with("a", Value::Double(number)), Err(EncodeError::NotFinite("x".into())));
        let posinfo = Posinfo { lon: 0.0, lat: 0.0, alt: number, speed: 0, course: 0, sats: 0 };
        assert_eq!(with("a", Value::Posinfo(posinfo)), Err(EncodeError::NotFinite("x".into())));
    }
}

#[test]
fn names() {
    let longest = "n".repeat(MAX_NAME);
    assert_eq!(Name::new(&longest).unwrap().as_bytes(), longest.as_bytes());
    for bad in ["", "имя", "a\0", "a\tb", &"n".repeat(MAX_NAME + 1)] {
        assert_eq!(Name::new(bad), None, "{bad:?}");
    }

    let nearest = |text, keep| Name::nearest(text, keep).to_string();
    assert_eq!(nearest("can.fuel.volume", false), "can_fuel_volume");
    assert_eq!(nearest("can.fuel.volume", true), "can.fuel.volume");
    assert_eq!(nearest("Ünit-2 Ω", false), "_nit_2__");
    assert_eq!(nearest("Ünit-2 Ω", true), "_nit-2 _");
    assert_eq!(nearest("", true), "_");
    assert_eq!(nearest(&longest, false), longest);
    let (one, two) = (format!("{longest}1"), format!("{longest}2"));
    assert_eq!(nearest(&one, false), "nnnnnnnnnnnnnnnnnnnnnnnnnnnnn_1d109884");
    assert_ne!(nearest(&one, false), nearest(&two, false));
    assert_eq!(nearest(&"я".repeat(39), true).len(), MAX_NAME);
}
