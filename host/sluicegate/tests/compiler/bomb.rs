//! Scripts that are small, valid, and far too much for a compiler. The
//! end-to-end tests use them as well.

use std::fmt::Write as _;

/// Labels of a `br_table`, and values that each carries.
const WIDE: usize = 1_000;

/// A script of about three bytes for each of the 1,000 labels of each of
/// `tables` branches. Every label carries 1,000 values, so a compiler that
/// writes out what flows where has a million of them for each branch.
///
/// # Panics
/// Never: the text is WebAssembly.
#[must_use]
pub fn compile_bomb(tables: usize) -> Vec<u8> {
    let mut text = format!(
        r#"(module
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
        (func (export "configure") (param i32 i32) (result i32) (i32.const 16))
        (type $wide (func (result {})))
        (func $values (type $wide) unreachable)
        (func (export "transform") (param i32 i32) (result i32)"#,
        "i32 ".repeat(WIDE)
    );
    text.push_str(&"(block (type $wide) ".repeat(WIDE));
    let labels: String = (1..=WIDE).fold(String::new(), |mut labels, label| {
        let _ = write!(labels, "{label} ");
        labels
    });
    for _ in 0..tables {
        let _ = write!(text, "(if (local.get 0) (then (br_table {labels} (call $values) (local.get 1))))");
    }
    text.push_str("(call $values)");
    text.push_str(&")".repeat(WIDE));
    text.push_str(&"(drop)".repeat(WIDE));
    text.push_str("(i32.const 16)))");
    wat::parse_str(&text).expect("WebAssembly text")
}
