//! Which keys of a file differ from those of another version of it.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// The keys, as paths with dots, whose values differ, or that only one of the
/// two has: in the order of `new`, those that are gone last. Lists are compared
/// whole. What is no TOML has no keys.
pub fn changed_keys(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (leaves(old), leaves(new));
    let known: BTreeMap<&str, &Value> = old.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let kept: BTreeMap<&str, ()> = new.iter().map(|(key, _)| (key.as_str(), ())).collect();
    let other = new.iter().filter(|(key, value)| known.get(key.as_str()) != Some(&value));
    let gone = old.iter().filter(|(key, _)| !kept.contains_key(key.as_str()));
    other.chain(gone).map(|(key, _)| key.clone()).collect()
}

fn leaves(text: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    walk("", text.parse::<Table>().unwrap_or_default(), &mut found);
    found
}

fn walk(path: &str, table: Table, found: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let path = if path.is_empty() { key } else { format!("{path}.{key}") };
        match value {
            Value::Table(table) => walk(&path, table, found),
            value => found.push((path, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_by_their_path() {
        let old =
            "topics = [\"a\"]\n[destination]\ntype = \"http\"\nurl = \"http://x\"\n[delivery]\nlanes = 2\n";
        let new = "topics = [\"a\", \"b\"]\n[destination]\nurl = \"http://x\"\ntype = \"http\"\n\
                   [script.settings]\nlimit = 5\n";
        assert_eq!(changed_keys(old, new), ["topics", "script.settings.limit", "delivery.lanes"]);
        assert_eq!(changed_keys(old, old), [""; 0]);
    }

    #[test]
    fn comments_and_order_change_nothing() {
        let old = "a = 1\nb.c = 2\n";
        assert_eq!(changed_keys(old, "# a comment\n[b]\nc = 0x2\n"), ["a"]);
        assert_eq!(changed_keys(old, "b = { c = 2 } # so\na = 1"), [""; 0]);
        assert_eq!(changed_keys("a = 1", "a ="), ["a"]);
    }
}
