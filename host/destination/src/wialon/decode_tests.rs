//! The decoder against published packets and packets made by hand: the file
//! says where each comes from.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn vectors() -> Json {
    let text = include_str!("../../../../scripts/wialon-retranslator/tests/vectors.json");
    serde_json::from_str(text).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// All packets of a stream that has ended; offsets count from its start.
fn decode_stream(mut bytes: &[u8]) -> Result<Vec<Packet>, DecodeError> {
    let mut packets = Vec::new();
    let mut start = 0;
    while !bytes.is_empty() {
        let moved = |error: DecodeError| DecodeError { offset: error.offset + start, ..error };
        let length = frame(bytes, 1 << 20).map_err(moved)?.unwrap_or(bytes.len());
        packets.push(decode(&bytes[..length]).map_err(moved)?);
        start += length;
        bytes = &bytes[length..];
    }
    Ok(packets)
}

#[test]
fn valid_packets_read_as_the_document_says() {
    for vector in vectors()["valid"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let packets = decode_stream(&unhex(vector["hex"].as_str().unwrap())).expect(name);
        let expected = vector["packets"].as_array().unwrap();
        assert_eq!(packets.len(), expected.len(), "{name}");
        for (packet, expected) in packets.iter().zip(expected) {
            let mut tree = packet.to_json();
            assert_eq!(json!(packet.flags), expected["flags"], "{name}");
            tree["flags"] = expected["flags"].clone();
            tree.as_object_mut().unwrap().remove("size");
            assert_eq!(&tree, expected, "{name}");
        }
    }
}

#[test]
fn invalid_bytes_are_refused_where_they_are_wrong() {
    for vector in vectors()["invalid"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let error = decode_stream(&unhex(vector["hex"].as_str().unwrap())).expect_err(name);
        assert_eq!(json!(error.offset), vector["offset"], "{name}: {error}");
    }
}

#[test]
fn the_tree_names_flags_and_types() {
    let vectors = vectors();
    let find = |name: &str| {
        let vector = vectors["valid"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap();
        decode_stream(&unhex(vector["hex"].as_str().unwrap())).unwrap().remove(0)
    };
    assert_eq!(
        find("all_flags").to_json()["flags"],
        json!(["location", "inputs", "outputs", "alarm", "driver"])
    );
    assert_eq!(find("odd_but_legal").to_json()["flags"], json!(["inputs", "0x80000000"]));
    assert_eq!(
        find("no_blocks").to_json(),
        json!({"size": 10, "uid": "a", "time": 1_700_000_000, "flags": [], "blocks": []})
    );
    let offsets: Vec<_> = find("gurtam_2016_example").blocks.iter().map(|block| block.offset).collect();
    assert_eq!(offsets, [28, 73, 97]);
}

#[test]
fn a_stream_is_cut_at_packet_ends() {
    let packet = unhex("0a00000061006553f10000000000");
    for cut in 0..packet.len() {
        assert_eq!(frame(&packet[..cut], 100), Ok(None));
    }
    let two = [packet.clone(), packet.clone()].concat();
    assert_eq!(frame(&two, 100), Ok(Some(packet.len())));
    assert_eq!(frame(&two, 10), Ok(Some(packet.len())));
    assert_eq!(frame(&two, 9).unwrap_err().to_string(), "byte 0: the packet size is 10, expected at most 9");
    assert_eq!(
        frame(&[0; 4], 100).unwrap_err().to_string(),
        "byte 0: the packet size is 0, expected at least 10"
    );
}

/// A packet cut or stretched by the sender: never read as if it were whole.
#[test]
fn one_packet_means_exactly_one() {
    let packet = unhex("0a00000061006553f10000000000");
    let longer = [packet.clone(), vec![0]].concat();
    assert_eq!(decode(&longer).unwrap_err().offset, 0);
    for cut in 0..packet.len() {
        assert_eq!(decode(&packet[..cut]).unwrap_err().offset, 0);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        // With a right size field the decoder gets past the first check.
        if let Some(size) = bytes.len().checked_sub(4) {
            bytes[..4].copy_from_slice(&(size as u32).to_le_bytes());
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn damaged_packets_never_panic_and_errors_point_inside(
        index in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let vectors = vectors();
        let valid = vectors["valid"].as_array().unwrap();
        let mut bytes = unhex(index.get(valid)["hex"].as_str().unwrap());
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Err(error) = decode_stream(&bytes) {
            prop_assert!(error.offset <= bytes.len());
        }
    }
}
