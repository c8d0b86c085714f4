//! The stream's lookup tables, `[tables.NAME]`: constants of the mapping, there
//! from `check` on.

/// The value of a key, if the table has that key.
///
/// # Panics
/// If the stream defines no such table: a fault of the script, which stops the
/// stream until the table is there. Natively, if [`define`] was not called.
pub fn get(table: &str, key: &str) -> Option<String> {
    tables::get(table, key)
}

/// The tables that the stream defines, in the order of their names.
pub fn names() -> Vec<String> {
    tables::names()
}

/// An error, for the settings, unless the stream defines this table. For
/// [`Script::check`](crate::Script::check).
pub fn check(table: &str) -> Result<(), String> {
    let names = names();
    if names.iter().any(|name| name == table) {
        return Ok(());
    }
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let known = match &*names.join(", ") {
        "" => "the stream defines none".to_owned(),
        names => format!("there is {names}"),
    };
    Err(format!("there is no table `{table}`, expected `[tables.{table}]` in the stream's file; {known}"))
}

/// Defines a table of this thread, or replaces it: what a test does first.
/// Native code only.
#[cfg(not(target_family = "wasm"))]
pub fn define<K: Into<String>, V: Into<String>>(table: &str, rows: impl IntoIterator<Item = (K, V)>) {
    tables::define(table, rows.into_iter().map(|(key, value)| (key.into(), value.into())).collect());
}

/// Forgets all tables of this thread. Native code only.
#[cfg(not(target_family = "wasm"))]
pub fn clear() {
    tables::clear();
}

#[cfg(target_family = "wasm")]
use crate::bindings::sluicegate::mapper::table as tables;

/// Natively those of each thread, so that unit tests do not see each other.
#[cfg(not(target_family = "wasm"))]
mod tables {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, HashMap};

    thread_local! {
        static TABLES: RefCell<BTreeMap<String, HashMap<String, String>>> = const { RefCell::new(BTreeMap::new()) };
    }

    pub(super) fn get(table: &str, key: &str) -> Option<String> {
        TABLES.with_borrow(|tables| match tables.get(table) {
            Some(rows) => rows.get(key).cloned(),
            None => panic!("there is no table `{table}`; `table::define` makes one for a test"),
        })
    }

    pub(super) fn names() -> Vec<String> {
        TABLES.with_borrow(|tables| tables.keys().cloned().collect())
    }

    pub(super) fn define(table: &str, rows: HashMap<String, String>) {
        TABLES.with_borrow_mut(|tables| tables.insert(table.to_owned(), rows));
    }

    pub(super) fn clear() {
        TABLES.with_borrow_mut(BTreeMap::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natively_a_test_defines_its_tables() {
        clear();
        assert_eq!(
            check("a"),
            Err("there is no table `a`, expected `[tables.a]` in the stream's file; the stream defines none"
                .to_owned())
        );
        define("b", [("1", "one")]);
        define("a", [("1", "eins"), ("2", "zwei")]);
        assert_eq!((get("a", "2").as_deref(), get("b", "2")), (Some("zwei"), None));
        assert_eq!(names(), ["a", "b"]);
        assert_eq!(check("a"), Ok(()));
        assert!(check("c").is_err_and(|error| error.ends_with("; there is `a`, `b`")));
    }
}
