//! The stream's small store: values outlive the instance and are restored
//! after a restart. A key belongs to one lane of the stream, so keys should
//! contain what order is kept by, for example the ident.

/// The value that was last set, if any.
pub fn get(key: &str) -> Option<Vec<u8>> {
    store::get(key)
}

/// Keeps a value.
pub fn set(key: &str, value: &[u8]) {
    store::set(key, value);
}

/// Forgets a value.
pub fn delete(key: &str) {
    store::delete(key);
}

/// Forgets everything: what a test calls before it begins. Native code only.
#[cfg(not(target_family = "wasm"))]
pub fn clear() {
    store::clear();
}

#[cfg(target_family = "wasm")]
use crate::bindings::sluicegate::mapper::state as store;

/// Natively a map for each thread, so that unit tests do not see each other.
#[cfg(not(target_family = "wasm"))]
mod store {
    use std::cell::RefCell;
    use std::collections::HashMap;

    thread_local! {
        static VALUES: RefCell<HashMap<String, Vec<u8>>> = RefCell::new(HashMap::new());
    }

    pub(super) fn get(key: &str) -> Option<Vec<u8>> {
        VALUES.with_borrow(|values| values.get(key).cloned())
    }

    pub(super) fn set(key: &str, value: &[u8]) {
        VALUES.with_borrow_mut(|values| match values.get_mut(key) {
            Some(kept) => {
                kept.clear();
                kept.extend_from_slice(value);
            }
            None => drop(values.insert(key.to_owned(), value.to_vec())),
        });
    }

    pub(super) fn delete(key: &str) {
        VALUES.with_borrow_mut(|values| values.remove(key));
    }

    pub(super) fn clear() {
        VALUES.with_borrow_mut(HashMap::clear);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn natively_it_keeps_values_too() {
        super::clear();
        assert_eq!(super::get("a"), None);
        super::set("a", b"1");
        super::set("a", b"22");
        assert_eq!(super::get("a").as_deref(), Some(&b"22"[..]));
        super::delete("a");
        assert_eq!(super::get("a"), None);
    }
}
