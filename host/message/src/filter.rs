//! MQTT topic filters: what a stream subscribes to (MQTT 5, section 4.7).

use std::fmt;
use std::sync::Arc;

/// A valid MQTT topic filter. `+` stands for one level, a `#` at the end for
/// its parent and everything below; neither matches a first level that begins
/// with `$`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Arc<str>);

/// Why a text is no topic filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The empty text.
    #[error("an empty topic filter")]
    Empty,
    /// MQTT carries at most 65,535 bytes.
    #[error("a topic filter of {0} bytes, MQTT allows 65535")]
    TooLong(usize),
    /// MQTT forbids U+0000, brokers refuse other control characters.
    #[error("a control character in the topic filter")]
    Control,
    /// `#` somewhere else than as the last level.
    #[error("`#` in the topic filter `{0}` is not alone on the last level")]
    Hash(String),
    /// `+` beside other characters.
    #[error("`+` in the topic filter `{0}` is not alone on its level")]
    Plus(String),
    /// `$share/...`, which `[bus] share` is for.
    #[error("a shared subscription `{0}` among the topics")]
    Shared(String),
}

impl TopicFilter {
    /// Checks the text.
    pub fn new(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if text.len() > usize::from(u16::MAX) {
            return Err(FilterError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(FilterError::Control);
        }
        if text == "$share" || text.starts_with("$share/") {
            return Err(FilterError::Shared(text.to_owned()));
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(FilterError::Hash(text.to_owned()));
            }
            if level.contains('+') && level != "+" {
                return Err(FilterError::Plus(text.to_owned()));
            }
        }
        Ok(Self(text.into()))
    }

    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has no wildcard, and so matches one topic only.
    pub fn is_topic(&self) -> bool {
        !self.0.contains(['+', '#'])
    }

    /// Whether a broker delivers a publish on `topic` to this filter.
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut topic = topic.split('/');
        for level in self.0.split('/') {
            if level == "#" {
                return true;
            }
            match topic.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        topic.next().is_none()
    }

    /// Whether there is a topic that both match.
    pub fn overlaps(&self, other: &TopicFilter) -> bool {
        let dollar = |a: &str, b: &str| a.starts_with('$') && b.starts_with(['+', '#']);
        if dollar(&self.0, &other.0) || dollar(&other.0, &self.0) {
            return false;
        }
        // The only topic of both would be the empty one, which MQTT does not have.
        if matches!((&*self.0, &*other.0), ("/#", "+") | ("+", "/#")) {
            return false;
        }
        let (mut left, mut right) = (self.0.split('/'), other.0.split('/'));
        loop {
            match (left.next(), right.next()) {
                // `#` matches its parent level as well.
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    #[test]
    fn refuses_what_a_broker_refuses() {
        for (text, error) in [
            ("", "an empty topic filter"),
            ("a/#/b", "`#` in the topic filter `a/#/b` is not alone on the last level"),
            ("a#", "`#` in the topic filter `a#` is not alone on the last level"),
            ("##", "`#` in the topic filter `##` is not alone on the last level"),
            ("a/b+/c", "`+` in the topic filter `a/b+/c` is not alone on its level"),
            ("a\u{0}", "a control character in the topic filter"),
            ("$share/group/a", "a shared subscription `$share/group/a` among the topics"),
        ] {
            assert_eq!(TopicFilter::new(text).unwrap_err().to_string(), error);
        }
        assert_eq!(TopicFilter::new(&"a".repeat(65_536)), Err(FilterError::TooLong(65_536)));
    }

    #[test]
    fn wildcards_leave_system_topics_alone() {
        assert!(!filter("#").matches("$SYS/uptime"));
        assert!(!filter("+/uptime").matches("$SYS/uptime"));
        assert!(filter("$SYS/#").matches("$SYS/uptime"));
        assert!(!filter("#").overlaps(&filter("$SYS/#")));
        assert!(filter("a/#").matches("a"));
        assert!(filter("a/#").overlaps(&filter("a")));
        assert!(filter("+/+").matches("/"));
    }

    /// The rule of the standard in its plainest form, on lists of levels.
    fn model(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) => true,
            ([], []) => true,
            ([f, filter @ ..], [t, topic @ ..]) => (*f == "+" || f == t) && model(filter, topic),
            _ => false,
        }
    }

    fn levels(wild: bool) -> impl Strategy<Value = String> {
        let mut names = vec!["a", "b", "", "$c"];
        if wild {
            names.extend(["+", "+"]);
        }
        let hash = if wild { prop_oneof![Just(""), Just("#")].boxed() } else { Just("").boxed() };
        (proptest::collection::vec(proptest::sample::select(names), 1..4), hash).prop_map(|(levels, hash)| {
            let mut text = levels.join("/");
            if !hash.is_empty() {
                text = format!("{text}/{hash}");
            }
            text
        })
    }

    /// Every topic of up to five levels over the alphabet of `levels`.
    fn all_topics() -> Vec<String> {
        let names = ["a", "b", "", "$c"];
        let mut topics: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut last = topics.clone();
        for _ in 0..3 {
            last = last.iter().flat_map(|t| names.iter().map(move |n| format!("{t}/{n}"))).collect();
            topics.extend(last.clone());
        }
        topics.retain(|t| !t.is_empty());
        topics
    }

    proptest! {
        #[test]
        fn matches_like_the_model(f in levels(true), t in levels(false)) {
            prop_assume!(!f.is_empty() && !t.is_empty());
            let parts: Vec<&str> = f.split('/').collect();
            let names: Vec<&str> = t.split('/').collect();
            let hidden = t.starts_with('$') && (parts[0] == "+" || parts[0] == "#");
            prop_assert_eq!(filter(&f).matches(&t), !hidden && model(&parts, &names));
        }

        #[test]
        fn overlap_means_a_common_topic(a in levels(true), b in levels(true)) {
            prop_assume!(!a.is_empty() && !b.is_empty());
            let (a, b) = (filter(&a), filter(&b));
            prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
            prop_assert!(a.overlaps(&a));
            let common = all_topics().iter().any(|t| a.matches(t) && b.matches(t));
            prop_assert_eq!(a.overlaps(&b), common);
        }

        #[test]
        fn never_panics(text in ".{0,20}", topic in ".{0,20}") {
            if let Ok(filter) = TopicFilter::new(&text) {
                filter.matches(&topic);
            }
        }
    }
}
