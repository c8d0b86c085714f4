//! Latest wins: all messages of a batch for one shadow become one update, and
//! an older timestamp never overwrites what a newer one said.

use std::collections::HashMap;

use sluicegate_sdk::{Delivery, Field, Message, Output, Reject, Result, state};

use crate::{AwsShadow, names, update};

/// A timestamp further ahead of the time of receipt (milliseconds) comes from
/// a wrong clock. It is not remembered: it would make every later message old.
const CLOCK_AHEAD: i64 = 24 * 3600 * 1000;

/// The updates of a batch while they are collected.
pub(crate) struct Batch<'s, 'a> {
    settings: &'s AwsShadow,
    shadows: Vec<Shadow<'a>>,
    by_target: HashMap<String, usize>,
}

/// One shadow and what the batch says about it.
struct Shadow<'a> {
    target: String,
    state_key: String,
    /// The newest timestamp before this batch, milliseconds.
    known: Option<i64>,
    /// The same with this batch.
    newest: Option<i64>,
    updates: Vec<Update<'a>>,
}

/// What one message says about its shadow.
struct Update<'a> {
    message: u32,
    time: i64,
    fields: Vec<Field<'a>>,
    document: Vec<u8>,
}

/// A message, checked.
struct Checked<'a> {
    target: String,
    state_key: String,
    time: Option<i64>,
    fields: Vec<Field<'a>>,
    document: Vec<u8>,
    publish: Option<Delivery>,
}

impl<'s, 'a> Batch<'s, 'a> {
    pub(crate) fn new(settings: &'s AwsShadow) -> Self {
        Self { settings, shadows: Vec::new(), by_target: HashMap::new() }
    }

    /// Takes a message in; its plain publish, if any, is delivered at once.
    pub(crate) fn add(&mut self, message: &Message<'a>, output: &mut Output) {
        let checked = match check(self.settings, message) {
            Ok(checked) => checked,
            Err(reason) => return output.reject(message, reason),
        };
        let Checked { target, state_key, time, fields, document, publish } = checked;
        let mut settled = publish.is_some();
        if let Some(publish) = publish {
            output.deliver(publish);
        }
        if !fields.is_empty() {
            let shadow = self.shadow(target, state_key);
            let old = time.zip(shadow.known).is_some_and(|(time, known)| time < known);
            if !old {
                // Without a time of its own it is as new as what came before.
                let time = time.or(shadow.newest).unwrap_or(i64::MIN);
                shadow.updates.push(Update { message: message.index(), time, fields, document });
                shadow.newest = shadow.newest.max((time != i64::MIN).then_some(time));
                settled = true;
            }
        }
        if !settled {
            output.filter(message);
        }
    }

    /// Delivers one update a shadow, in the order in which they came up first.
    pub(crate) fn finish(self, output: &mut Output) {
        for shadow in self.shadows {
            if let Some(newest) = shadow.newest
                && shadow.newest != shadow.known
            {
                state::set(&shadow.state_key, newest.to_string().as_bytes());
            }
            shadow.deliver(self.settings, output);
        }
    }

    fn shadow(&mut self, target: String, state_key: String) -> &mut Shadow<'a> {
        let next = self.shadows.len();
        let at = *self.by_target.entry(target.clone()).or_insert(next);
        if at == next {
            let known = state::get(&state_key)
                .and_then(|kept| String::from_utf8(kept).ok())
                .and_then(|kept| kept.parse().ok());
            self.shadows.push(Shadow { target, state_key, known, newest: known, updates: Vec::new() });
        }
        &mut self.shadows[at]
    }
}

/// All that can be wrong with one message, before it can spoil others.
fn check<'a>(settings: &AwsShadow, message: &Message<'a>) -> Result<Checked<'a>> {
    let thing = names::render(&settings.thing_name, message, names::THING)?;
    let shadow = settings
        .shadow_name
        .as_ref()
        .map(|shadow| names::render(shadow, message, names::SHADOW))
        .transpose()?;
    let (target, state_key) = match shadow {
        None => (format!("$aws/things/{thing}/shadow/update"), format!("ts:{thing}")),
        // A slash is in no name, so no two shadows share a key.
        Some(shadow) => {
            (format!("$aws/things/{thing}/shadow/name/{shadow}/update"), format!("ts:{thing}/{shadow}"))
        }
    };
    let latest = i64::try_from(message.received_at()).unwrap_or(i64::MAX).saturating_add(CLOCK_AHEAD);
    let time = message.timestamp()?.map(|timestamp| timestamp.millis).filter(|&millis| millis <= latest);
    let selected = settings.fields.select(message);
    let publish = publish(settings, message, &selected)?;
    let fields = update::reported(settings, selected);
    let document = update::state_document(settings, &fields)?;
    Ok(Checked { target, state_key, time, fields, document, publish })
}

/// The message for the plain topic: the same fields and notation, `null` included.
fn publish(settings: &AwsShadow, message: &Message<'_>, fields: &[Field<'_>]) -> Result<Option<Delivery>> {
    let Some(topic) = &settings.mqtt_topic else { return Ok(None) };
    let topic = names::render_topic(topic, message)?;
    let mut body = Vec::with_capacity(message.payload().len());
    settings.notation.write_object(&mut body, fields)?;
    if topic.len() + body.len() > names::LARGEST_PUBLISH {
        return Err(Reject::new(format!(
            "the message for {topic:?} has {} bytes, expected at most {} with its topic",
            body.len(),
            names::LARGEST_PUBLISH
        )));
    }
    Ok(Some(message.delivery(body).to(topic)))
}

impl<'a> Shadow<'a> {
    fn deliver(mut self, settings: &AwsShadow, output: &mut Output) {
        // Stable: of equal times the later message wins.
        self.updates.sort_by_key(|update| update.time);
        match self.updates.as_slice() {
            // All were older than what is known.
            [] => {}
            [only] => self.deliver_run(&self.updates, &only.document, output),
            several => match merged(settings, several) {
                Ok(document) => self.deliver_run(several, &document, output),
                // Together they are too large, or two fields share a key: as
                // few updates as it takes, the oldest first.
                Err(_) => self.deliver_runs(settings, output),
            },
        }
    }

    fn deliver_runs(&self, settings: &AwsShadow, output: &mut Output) {
        let mut rest = self.updates.as_slice();
        while let Some(first) = rest.first() {
            let mut document = first.document.clone();
            let mut length = 1;
            while let Some(run) = rest.get(..=length)
                && let Ok(longer) = merged(settings, run)
            {
                document = longer;
                length += 1;
            }
            let (run, after) = rest.split_at(length);
            self.deliver_run(run, &document, output);
            rest = after;
        }
    }

    fn deliver_run(&self, run: &[Update<'a>], document: &[u8], output: &mut Output) {
        let mut messages: Vec<u32> = run.iter().map(|update| update.message).collect();
        messages.sort_unstable();
        output.deliver(update::delivery(&self.target, messages, document));
    }
}

/// The document of several updates, the oldest first: of each field the value
/// that came last.
fn merged(settings: &AwsShadow, updates: &[Update<'_>]) -> Result<Vec<u8>> {
    let mut fields: Vec<Field<'_>> = Vec::new();
    for update in updates {
        for (place, field) in update.fields.iter().enumerate() {
            // Messages of one device mostly have the same fields in one order.
            let at = match fields.get(place) {
                Some(there) if there.key == field.key => Some(place),
                _ => fields.iter().position(|there| there.key == field.key),
            };
            match at.and_then(|at| fields.get_mut(at)) {
                Some(there) => there.value = field.value,
                None => fields.push(field.clone()),
            }
        }
    }
    update::state_document(settings, &fields)
}
