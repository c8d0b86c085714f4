//! The official adapter `http-json`: messages become one JSON list a request,
//! as flespi's HTTP streams send them. README.md has the mapping table.

use serde::Deserialize;
use sluicegate_sdk::{
    BatchScript, Delivery, Field, Fields, Message, Notation, Output, Result, Template, Value, json,
};

/// The settings, and the script itself.
#[derive(Debug, Deserialize)]
pub struct HttpJson {
    /// What the field `ident` becomes; none: it stays.
    ident: Option<Template>,
    #[serde(default)]
    fields: Fields,
    #[serde(default)]
    notation: Notation,
    /// The most messages in one request.
    #[serde(default = "limit_messages")]
    limit_messages: usize,
}

fn limit_messages() -> usize {
    100
}

impl BatchScript for HttpJson {
    fn check(&self) -> Result<(), String> {
        if (1..=10_000).contains(&self.limit_messages) {
            return Ok(());
        }
        Err(format!("`limit_messages` = {}: expected 1 to 10000", self.limit_messages))
    }

    fn map_batch(&self, messages: &[Message<'_>], output: &mut Output) {
        let mut list = List::default();
        for message in messages {
            match self.write(message, &mut list) {
                Ok(()) if list.carried.len() == self.limit_messages => {
                    output.deliver(std::mem::take(&mut list).close())
                }
                Ok(()) => {}
                Err(reason) => output.reject(message, reason),
            }
        }
        if !list.carried.is_empty() {
            output.deliver(list.close());
        }
    }
}

/// The body of a request while it grows.
#[derive(Default)]
struct List {
    carried: Vec<u32>,
    body: Vec<u8>,
}

impl List {
    fn close(mut self) -> Delivery {
        self.body.push(b']');
        Delivery::new(self.carried, self.body)
    }
}

impl HttpJson {
    /// Adds a message; one that is rejected leaves no trace in the list.
    fn write(&self, message: &Message<'_>, list: &mut List) -> Result<()> {
        let mut fields = self.fields.select(message);
        let ident = self.ident.as_ref().map(|ident| ident.render(message)).transpose()?;
        let quoted = ident.map(|ident| json::quoted(&ident));
        if let Some(quoted) = &quoted {
            set_ident(&mut fields, quoted, self.fields.allows("ident"));
        }
        let before = list.body.len();
        list.body.push(if list.carried.is_empty() { b'[' } else { b',' });
        let written = self.notation.write_object(&mut list.body, &fields);
        match written {
            Ok(()) => list.carried.push(message.index()),
            Err(_) => list.body.truncate(before),
        }
        written
    }
}

/// In the place of the old one, or at the end where the message has none.
fn set_ident<'a>(fields: &mut Vec<Field<'a>>, quoted: &'a str, allowed: bool) {
    let Some(value) = Value::parse(quoted).filter(|_| allowed) else { return };
    match fields.iter_mut().find(|field| field.key == "ident") {
        Some(field) => field.value = value,
        None => fields.push(Field { key: "ident".into(), value }),
    }
}

sluicegate_sdk::export!(HttpJson);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use sluicegate_sdk::{Instance, testing};

    use super::*;

    #[test]
    fn golden_cases() {
        testing::run_cases::<HttpJson>(concat!(env!("CARGO_MANIFEST_DIR"), "/cases"));
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let error = |settings: &str| Instance::<HttpJson>::configure(settings).unwrap_err();
        assert_eq!(error(r#"{"limit_messages":0}"#), "`limit_messages` = 0: expected 1 to 10000");
        assert!(error(r#"{"ident":"%ident%{"}"#).starts_with("`ident` = \"%ident%{\": "));
        assert!(error(r#"{"limit":5}"#).starts_with("`limit` = 5 is not a setting of this script"));
    }

    proptest! {
        /// Each message is in exactly one list, in order, unchanged; lists are
        /// full but for the last.
        #[test]
        fn no_message_is_lost_or_changed(
            values in prop::collection::vec(prop::option::of("-?[1-9][0-9]{0,30}\\.[0-9]{1,20}"), 0..40),
            limit in 1..12_usize,
        ) {
            let instance = Instance::<HttpJson>::configure(&format!(r#"{{"limit_messages":{limit}}}"#)).unwrap();
            let batch: Vec<_> = values.iter()
                .map(|value| testing::message(value.as_ref().map_or("broken".to_owned(), |v| format!(r#"{{"v":{v}}}"#))))
                .collect();
            let mapping = instance.transform(&batch);
            let whole: Vec<&String> = values.iter().flatten().collect();
            let bodies: Vec<String> = whole.chunks(limit)
                .map(|run| format!("[{}]", run.iter().map(|v| format!(r#"{{"v":{v}}}"#)).collect::<Vec<_>>().join(",")))
                .collect();
            let got: Vec<&str> = mapping.deliveries.iter().map(|d| std::str::from_utf8(&d.body).unwrap()).collect();
            prop_assert_eq!(got, bodies);
            prop_assert_eq!(mapping.rejections.len(), values.len() - whole.len());
        }
    }
}
