//! Small scripts in WAT for tests.

#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;

use crate::Engine;

/// One engine for all tests, as in the gateway.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(64).unwrap())
}

/// A module of the prelude and these definitions. Without a `configure` of
/// their own they get one that accepts everything.
pub fn module(definitions: &str) -> Vec<u8> {
    let configure = if definitions.contains("\"configure\"") {
        ""
    } else {
        "(func (export \"configure\") (param i32 i32) (result i32) (i32.const 16))"
    };
    let prelude = include_str!("prelude.wat");
    wat::parse_str(format!("(module {prelude} {configure} {definitions})")).unwrap()
}

/// A module whose `transform` has this body; its parameters are `$batch` and
/// `$n`.
pub fn transform(body: &str) -> Vec<u8> {
    module(&format!(r#"(func (export "transform") (param $batch i32) (param $n i32) (result i32) {body})"#))
}

/// The same of a script that accepts only settings that are as long as these.
pub fn transform_for(settings: &str, body: &str) -> Vec<u8> {
    let length = settings.len();
    module(&format!(
        r#"(func (export "configure") (param i32 i32) (result i32)
             (if (i32.ne (local.get 1) (i32.const {length}))
               (then (return (call $error (local.get 0) (local.get 1)))))
             (i32.const 16))
           (func (export "transform") (param $batch i32) (param $n i32) (result i32) {body})"#
    ))
}

/// `transform` of a script that delivers every payload unchanged.
pub const PASS: &str = "(call $pass (local.get $batch) (local.get $n))";
