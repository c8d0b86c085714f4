//! The encoder against published packets and packets made by hand
//! (tests/vectors.json says where each comes from).

#![allow(clippy::unwrap_used)]

use serde::Deserialize;
use serde_json::value::RawValue;

use super::*;

/// Valid packets that this encoder must refuse or cannot say, with the reason.
const INEXPRESSIBLE: [(&str, &str); 5] = [
    ("image_type_6", "no image blocks"),
    ("other_binary", "binary is for posinfo only"),
    ("utf8", "unit id and name outside ASCII"),
    ("not_finite", "NaN and infinities"),
    ("odd_but_legal", "a name of 39 bytes"),
];

#[derive(Deserialize)]
struct Vectors {
    valid: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    hex: String,
    packets: Vec<Tree>,
}

#[derive(Deserialize)]
struct Tree {
    uid: String,
    time: u32,
    flags: u32,
    blocks: Vec<TreeBlock>,
}

#[derive(Deserialize)]
struct TreeBlock {
    name: String,
    hidden: bool,
    r#type: String,
    value: Box<RawValue>,
}

#[derive(Deserialize)]
struct TreePosinfo {
    lon: Box<RawValue>,
    lat: Box<RawValue>,
    alt: Box<RawValue>,
    speed: u16,
    course: u16,
    sats: u8,
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// serde_json may miss a double by one in its last place; the standard library does not.
fn exact(raw: &RawValue) -> Option<f64> {
    raw.get().parse().ok()
}

fn block(tree: &TreeBlock) -> Option<Block<'_>> {
    let raw = tree.value.get();
    let value = match tree.r#type.as_str() {
        "text" => Value::Text(serde_json::from_str::<String>(raw).unwrap().into()),
        "int32" => Value::Int(raw.parse().unwrap()),
        "double" => Value::Double(exact(&tree.value)?),
        "int64" => Value::Long(raw.parse().unwrap()),
        "binary" => {
            let posinfo: TreePosinfo = serde_json::from_str(raw).ok()?;
            Value::Posinfo(Posinfo {
                lon: exact(&posinfo.lon).unwrap(),
                lat: exact(&posinfo.lat).unwrap(),
                alt: exact(&posinfo.alt).unwrap(),
                speed: posinfo.speed,
                course: posinfo.course,
                sats: posinfo.sats,
            })
        }
        _ => return None,
    };
    Some(Block { name: Name::new(&tree.name)?, hidden: tree.hidden, value })
}

fn packet(tree: &Tree) -> Option<Packet<'_>> {
    let blocks = tree.blocks.iter().map(block).collect::<Option<_>>()?;
    Some(Packet { uid: &tree.uid, time: tree.time, flags: tree.flags, blocks })
}

#[test]
fn every_expressible_packet_is_encoded_to_the_byte() {
    let vectors: Vectors = serde_json::from_str(include_str!("../tests/vectors.json")).unwrap();
    let mut inexpressible = Vec::new();
    for vector in &vectors.valid {
        let name = vector.name.as_str();
        let Some(packets) = vector.packets.iter().map(packet).collect::<Option<Vec<_>>>() else {
            inexpressible.push(name);
            continue;
        };
        let mut bytes = Vec::new();
        for packet in &packets {
            let encoded = packet.encode().unwrap();
            assert_eq!(encoded.len(), packet.size(), "{name}");
            bytes.extend(encoded);
        }
        assert_eq!(bytes, unhex(&vector.hex), "{name}");
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
    assert_eq!(nearest("Ünit-2 Ω", false), "_nit_2___a90f9573");
    assert_eq!(nearest("Ünit-2 Ω", true), "_nit-2 __a90f9573");
    assert_eq!(nearest("", true), "_");
    assert_eq!(nearest(&longest, false), longest);
    let (one, two) = (format!("{longest}1"), format!("{longest}2"));
    assert_eq!(nearest(&one, false), "nnnnnnnnnnnnnnnnnnnnnnnnnnnnn_1d109884");
    assert_ne!(nearest(&one, false), nearest(&two, false));
    assert_eq!(nearest(&"я".repeat(39), true).len(), MAX_NAME);
}
