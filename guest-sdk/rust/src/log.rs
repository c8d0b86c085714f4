//! Lines for the log of the stream. The gateway limits their rate; what
//! concerns one message alone is better said in its rejection.

/// For the author of the script.
pub fn debug(text: &str) {
    write::debug(text);
}

/// Worth knowing, nothing to do.
pub fn info(text: &str) {
    write::info(text);
}

/// Something that an operator should look at.
pub fn warn(text: &str) {
    write::warn(text);
}

/// Something that an operator must change.
pub fn error(text: &str) {
    write::error(text);
}

/// Has a panic say where and why before it traps: without, all that the gateway
/// sees is an `unreachable`.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        error(&format!("panicked{place}: {}", panic.payload_as_str().unwrap_or("no text")));
    }));
}

#[cfg(target_family = "wasm")]
mod write {
    use crate::bindings::sluicegate::mapper::log::{Level, write};

    pub(super) fn debug(text: &str) {
        write(Level::Debug, text);
    }
    pub(super) fn info(text: &str) {
        write(Level::Info, text);
    }
    pub(super) fn warn(text: &str) {
        write(Level::Warn, text);
    }
    pub(super) fn error(text: &str) {
        write(Level::Error, text);
    }
}

/// Natively: the standard error of the test.
#[cfg(not(target_family = "wasm"))]
mod write {
    pub(super) fn debug(text: &str) {
        eprintln!("debug: {text}");
    }
    pub(super) fn info(text: &str) {
        eprintln!("info: {text}");
    }
    pub(super) fn warn(text: &str) {
        eprintln!("warn: {text}");
    }
    pub(super) fn error(text: &str) {
        eprintln!("error: {text}");
    }
}
