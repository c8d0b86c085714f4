//! What AWS allows names and topics to be. A publish that breaks these rules
//! may cost the connection of all devices, so they are checked before it.

use sluicegate_sdk::{Message, Reject, Result, Template};

/// The most bytes that a publish may carry.
pub(crate) const LARGEST_PUBLISH: usize = 131_072;

/// A kind of name: what it is called, its longest form, what it may contain
/// beside letters, digits, `:`, `_` and `-`.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    what: &'static str,
    longest: usize,
    also: &'static str,
}

pub(crate) const THING: Rule = Rule { what: "thing name", longest: 128, also: "" };
pub(crate) const SHADOW: Rule = Rule { what: "shadow name", longest: 64, also: "$" };

impl Rule {
    fn allows(self, c: char) -> bool {
        c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-') || self.also.contains(c)
    }
}

/// Fills a template in and checks the name.
pub(crate) fn render(template: &Template, message: &Message<'_>, rule: Rule) -> Result<String> {
    let name = template.render(message)?;
    let Rule { what, longest, also } = rule;
    if name.is_empty() || name.len() > longest {
        return Err(Reject::new(format!(
            "{what} {name:?} has {} bytes, expected 1 to {longest}",
            name.len()
        )));
    }
    match name.chars().find(|&c| !rule.allows(c)) {
        None => Ok(name),
        Some(c) => Err(Reject::new(format!(
            "{what} {name:?} has the character {c:?}, expected letters, digits and any of :_-{also}"
        ))),
    }
}

/// Checks the template's own text, which every name would have.
pub(crate) fn check_template(key: &str, template: &Template, rule: Rule) -> Result<(), String> {
    let wrong = template.literals().flat_map(str::chars).find(|&c| !rule.allows(c));
    let length: usize = template.literals().map(str::len).sum();
    let place = format!("`{key}` = {:?}", template.text());
    if template.text().is_empty() || length > rule.longest {
        return Err(format!("{place}: expected a {} of 1 to {} bytes", rule.what, rule.longest));
    }
    match wrong {
        None => Ok(()),
        Some(c) => Err(format!(
            "{place}: {c:?} is not allowed in a {}, expected letters, digits and any of :_-{}",
            rule.what, rule.also
        )),
    }
}

/// Longest topic in bytes, most slashes in it.
const TOPIC: (usize, usize) = (256, 7);

/// Fills in the topic of the plain publish.
pub(crate) fn render_topic(template: &Template, message: &Message<'_>) -> Result<String> {
    let topic = template.render_topic(message)?;
    if topic.len() > TOPIC.0 {
        return Err(Reject::new(format!(
            "topic {topic:?} has {} bytes, expected at most {}",
            topic.len(),
            TOPIC.0
        )));
    }
    Ok(topic)
}

pub(crate) fn check_topic_template(template: &Template) -> Result<(), String> {
    let place = format!("`mqtt_topic` = {:?}", template.text());
    template.check_topic().map_err(|error| format!("{place}: {error}"))?;
    let slashes = template.literals().flat_map(str::chars).filter(|&c| c == '/').count();
    if slashes > TOPIC.1 {
        return Err(format!("{place}: {slashes} slashes, expected at most {}", TOPIC.1));
    }
    Ok(())
}
