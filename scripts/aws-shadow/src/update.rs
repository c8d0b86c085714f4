//! One update of a shadow: the document, and the delivery that carries it.

use sluicegate_sdk::{Delivery, Field, Kind, Notation, Reject, Result, json};

use crate::{AwsShadow, Nulls};

/// Objects and lists inside `reported`, that one included. AWS has documented
/// 5, 6 and 8 at different times; 6 is what its error text says.
const DEEPEST: usize = 6;

/// The text of `state`: `{"reported":{...}}`, checked against AWS's limits.
pub(crate) fn state_document(settings: &AwsShadow, fields: &[Field<'_>]) -> Result<Vec<u8>> {
    let size = fields.iter().map(|field| field.key.len() + field.value.raw().len() + 4).sum::<usize>();
    let mut document = Vec::with_capacity(size + 32);
    document.extend_from_slice(br#"{"reported":"#);
    let nulls = settings.nulls.into();
    settings
        .notation
        .write_object_with(&mut document, fields, |out, value| json::write_strict(out, value, nulls))?;
    document.push(b'}');
    if document.len() > settings.max_document {
        return Err(Reject::new(format!(
            "`state` has {} bytes, expected at most {} (`max_document`); `fields` makes it smaller",
            document.len(),
            settings.max_document
        )));
    }
    let nested = |field: &Field<'_>| matches!(field.value.kind(), Kind::Array | Kind::Object);
    let flat = settings.notation != Notation::Nested && !fields.iter().any(nested);
    let depth = if flat { 1 } else { deepest(&document) };
    if depth > DEEPEST {
        return Err(Reject::new(format!(
            "`reported` is nested {depth} levels deep, expected at most {DEEPEST}"
        )));
    }
    Ok(document)
}

/// The fields that an update says something about.
pub(crate) fn reported<'a>(settings: &AwsShadow, fields: Vec<Field<'a>>) -> Vec<Field<'a>> {
    match settings.nulls {
        Nulls::Delete => fields,
        Nulls::Drop => fields.into_iter().filter(|field| !field.value.is_null()).collect(),
    }
}

/// The delivery of a document to the topic of a shadow.
pub(crate) fn delivery(target: &str, messages: Vec<u32>, state: &[u8]) -> Delivery {
    let token = client_token(target, state);
    let mut body = Vec::with_capacity(state.len() + 64);
    body.extend_from_slice(br#"{"state":"#);
    body.extend_from_slice(state);
    body.extend_from_slice(br#","clientToken":"#);
    json::write_str(&mut body, &token);
    body.push(b'}');
    Delivery::new(messages, body).to(target).header("client-token", token)
}

/// Levels below the object that `state` itself is.
fn deepest(document: &[u8]) -> usize {
    std::str::from_utf8(document).ok().map_or(0, |text| json::text_depth(text).saturating_sub(1))
}

/// 128 bits of the content in hexadecimal digits: the destination pairs AWS's
/// refusals by it. It need not withstand an attacker, only tell the updates
/// apart that are under way at one time.
fn client_token(target: &str, state: &[u8]) -> String {
    let mut halves = [0x9e37_79b9_7f4a_7c15_u64, 0xc2b2_ae3d_27d4_eb4f];
    for part in [target.as_bytes(), state] {
        mix(&mut halves, part.len() as u64);
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            mix(&mut halves, u64::from_le_bytes(word));
        }
    }
    mix(&mut halves, 0);
    let [first, second] = halves;
    format!("{first:016x}{second:016x}")
}

/// Multiply and fold, with another odd constant for each half.
fn mix(halves: &mut [u64; 2], word: u64) {
    let [first, second] = halves;
    *first = (*first ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    *first ^= *first >> 32;
    *second = (second.rotate_left(23) ^ word).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    *second ^= *second >> 29;
}
