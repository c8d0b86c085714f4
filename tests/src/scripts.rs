//! Hostile scripts, as `.wasm` files of core modules.
//!
//! They are written in WebAssembly text on the prelude of the gateway's own
//! tests of its engine. A script that treats only some messages badly looks
//! for a `!` in the payload.

/// The imports, an allocator, and writers for the records of the contract.
const PRELUDE: &str = include_str!("../../host/src/script/tests/prelude.wat");

/// A function `$marked`: the index of the first message of a batch whose
/// payload has a `!`, or -1.
const MARKED: &str = r#"
(func $marked (param $batch i32) (param $n i32) (result i32)
  (local $i i32) (local $at i32) (local $end i32)
  (block $none
    (loop $message
      (br_if $none (i32.ge_u (local.get $i) (local.get $n)))
      (local.set $at (i32.load offset=8 (local.get $batch)))
      (local.set $end (i32.add (local.get $at) (i32.load offset=12 (local.get $batch))))
      (block $clean
        (loop $byte
          (br_if $clean (i32.ge_u (local.get $at) (local.get $end)))
          (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33)) (then (return (local.get $i))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $byte)))
      (local.set $batch (i32.add (local.get $batch) (i32.const 24)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $message)))
  (i32.const -1))
"#;

/// What a script does before it passes every payload through.
const LOOP: &str = "(loop $l (br $l))";
const EAT: &str =
    "(loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16))))) unreachable";
const FLOOD: &str = "(local.set $i (i32.const 10000))
    (loop $again
      (call $log (i32.const 2) (i32.const 100) (i32.const 11))
      (local.set $i (i32.sub (local.get $i) (i32.const 1)))
      (br_if $again (local.get $i)))";

/// Passes every payload through, one delivery a message.
pub fn honest() -> Vec<u8> {
    passing("")
}

/// Runs in a circle at every message.
pub fn looping() -> Vec<u8> {
    passing(LOOP)
}

/// Runs in a circle at marked messages.
pub fn looping_at_marked() -> Vec<u8> {
    at_marked(LOOP)
}

/// Takes all memory that it gets at every message, then gives up.
pub fn eating() -> Vec<u8> {
    passing(EAT)
}

/// Traps at marked messages.
pub fn trapping_at_marked() -> Vec<u8> {
    at_marked("unreachable")
}

/// Writes ten thousand lines (`log flooded`) in each call.
pub fn flooding() -> Vec<u8> {
    passing(FLOOD)
}

/// What is no WebAssembly.
pub fn garbage() -> Vec<u8> {
    (0..4096_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// WebAssembly that ends in the middle.
pub fn torn() -> Vec<u8> {
    let mut wasm = honest();
    wasm.truncate(wasm.len() / 2);
    wasm
}

/// Scripts that break the contract in each call: a name, the script, and a
/// part of what the gateway says of it.
pub fn contract_breakers() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let nothing = "(i32.const 0) (i32.const 0)";
    let mapping = |deliveries: &str, rejections: &str, filtered: &str| {
        transform(&format!("(call $mapping {deliveries} {rejections} {filtered})"))
    };
    let one_delivery = |before: &str| {
        format!(
            "(local.set $i (call $alloc (i32.const 36)))
             (call $delivery (local.get $i) (i32.const 0) (i32.const 0) (i32.const 0)) {before}"
        )
    };
    vec![
        ("nothing", mapping(nothing, nothing, nothing), "message 0"),
        (
            "out-of-range",
            transform(&format!(
                "{} (i32.store (i32.load (local.get $i)) (i32.const 4000))
                 (call $mapping (local.get $i) (i32.const 1) {nothing} {nothing})",
                one_delivery("")
            )),
            "4000",
        ),
        (
            "empty-messages",
            transform(&format!(
                "{} (i32.store offset=4 (local.get $i) (i32.const 0))
                 (call $mapping (local.get $i) (i32.const 1) {nothing} {nothing})",
                one_delivery("")
            )),
            "message",
        ),
        (
            "delivered-and-filtered",
            transform(&format!(
                "{} (i32.store (i32.const 400) (i32.const 0))
                 (call $mapping (local.get $i) (i32.const 1) {nothing} (i32.const 400) (i32.const 1))",
                one_delivery("")
            )),
            "message 0",
        ),
        ("lists-beyond-memory", mapping("(i32.const 0x7fff0000) (i32.const 1000)", nothing, nothing), ""),
        (
            "text-that-is-none",
            // A rejection whose reason is no UTF-8.
            transform(&format!(
                "(i32.store (i32.const 300) (i32.const 0))
                 (i32.store (i32.const 304) (i32.const 500)) (i32.store (i32.const 308) (i32.const 4))
                 (i32.store (i32.const 500) (i32.const -1))
                 (call $mapping {nothing} (i32.const 300) (i32.const 1) {nothing})"
            )),
            "",
        ),
    ]
}

fn at_marked(what: &str) -> Vec<u8> {
    passing(&format!(
        "(if (i32.ne (i32.const -1) (call $marked (local.get $batch) (local.get $n))) (then {what}))"
    ))
}

fn passing(before: &str) -> Vec<u8> {
    transform(&format!("{before} (call $pass (local.get $batch) (local.get $n))"))
}

/// A module whose `transform` has this body; its locals are `$batch`, `$n` and
/// `$i`.
fn transform(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module {PRELUDE} {MARKED}
          (data (i32.const 100) "log flooded")
          (func (export "configure") (param i32 i32) (result i32) (i32.const 16))
          (func (export "transform") (param $batch i32) (param $n i32) (result i32) (local $i i32) {body}))"#
    );
    wat::parse_str(text).expect("WebAssembly text")
}
