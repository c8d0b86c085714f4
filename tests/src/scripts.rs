//! Hostile scripts, as `.wasm` files of core modules.
//!
//! They are written in WebAssembly text on the prelude of the gateway's own
//! tests of its engine. A script that treats only some messages badly looks
//! for a `!` in the payload.

#[path = "../../host/sluicegate/tests/compiler/bomb.rs"]
mod bomb;

pub use bomb::compile_bomb;

/// The imports, an allocator, and writers for the records of the contract.
const PRELUDE: &str = include_str!("../../host/script/src/prelude.wat");

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
const RECURSE: &str = "(drop (call $deep (i32.const 1)))";
/// Makes a thousand deliveries of the same 8 MB.
const BLOAT: &str = "(local.set $i (call $alloc (i32.const 8000000)))
    (local.set $n (call $alloc (i32.const 36000)))
    (local.set $batch (i32.const 0))
    (loop $next
      (call $delivery (i32.add (local.get $n) (i32.mul (local.get $batch) (i32.const 36)))
        (i32.const 0) (local.get $i) (i32.const 8000000))
      (local.set $batch (i32.add (local.get $batch) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $batch) (i32.const 1000))))
    (call $mapping (local.get $n) (i32.const 1000) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))";
const STORM: &str = "(loop $l (call $get (i32.const 100) (i32.const 1) (i32.const 200)) (br $l))";
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

/// Calls itself until the stack is full, at every message.
pub fn recursing() -> Vec<u8> {
    passing(RECURSE)
}

/// Returns what lies once in its own memory a thousand times.
pub fn bloating() -> Vec<u8> {
    transform(BLOAT)
}

/// Asks for its state for ever, at every message.
pub fn storming() -> Vec<u8> {
    passing(STORM)
}

/// Traps before its first message.
pub fn trapping_in_configure() -> Vec<u8> {
    module("unreachable", "(call $pass (local.get $batch) (local.get $n))")
}

/// A module whose `transform` is not what the contract says.
pub fn of_other_signatures() -> Vec<u8> {
    parse(
        r#"(module (memory (export "memory") 1)
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
          (func (export "configure") (param i32 i32) (result i32) (i32.const 16))
          (func (export "transform") (param i32) (result i64) unreachable))"#,
    )
}

/// A component that asks for a clock.
pub fn wanting_wasi() -> Vec<u8> {
    parse(
        r#"(component (import "wasi:clocks/monotonic-clock@0.2.0"
          (instance (export "now" (func (result u64))))))"#,
    )
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

/// Passes every payload through to the topic `mark`, by which the receiver
/// knows the version.
pub fn marking(mark: &str) -> Vec<u8> {
    parse(&marked_module(mark, "", ""))
}

/// The same, and fails on marked messages.
pub fn marking_but_trapping_at_marked(mark: &str) -> Vec<u8> {
    let trap =
        "(if (i32.ne (i32.const -1) (call $marked (local.get $batch) (local.get $n))) (then unreachable))";
    parse(&marked_module(mark, "", trap))
}

/// The same without failing, and takes another 64 KiB of memory in each call.
pub fn marking_and_leaking(mark: &str) -> Vec<u8> {
    parse(&marked_module(mark, "", "(drop (memory.grow (i32.const 1)))"))
}

/// The same without leaking, and so large that it takes much longer than others to compile.
pub fn marking_and_large(mark: &str) -> Vec<u8> {
    let sum = "(local.set 0 (i64.xor (i64.mul (local.get 0) (i64.const 6364136223846793005)) \
        (i64.rotl (local.get 0) (i64.const 7))))"
        .repeat(40);
    let functions = format!("(func (param i64) (result i64) {sum} (local.get 0))").repeat(250);
    parse(&marked_module(mark, &functions, ""))
}

/// Sends each message to another topic than the one before: the same instance
/// does not map the same messages alike.
pub fn counting() -> Vec<u8> {
    let count = "(i32.store8 (i32.const 300) (i32.add (i32.load8_u (i32.const 300)) (i32.const 1)))";
    parse(&marked_module("a", "", count))
}

/// The same, and every topic is a letter: other ones than before, but none that
/// is wrong in itself.
pub fn counting_in_letters() -> Vec<u8> {
    let count = "(i32.store (i32.const 304) (i32.add (i32.load (i32.const 304)) (i32.const 1)))
        (i32.store8 (i32.const 300) (i32.add (i32.const 97)
            (i32.rem_u (i32.load (i32.const 304)) (i32.const 26))))";
    parse(&marked_module("a", "", count))
}

fn marked_module(mark: &str, functions: &str, before: &str) -> String {
    let length = mark.len();
    module_text(
        &format!("(data (i32.const 300) \"{mark}\") {functions}"),
        "(i32.const 16)",
        &format!(
            "{before}
             (local.set $i (call $pass (local.get $batch) (local.get $n)))
             (local.set $batch (i32.load offset=4 (local.get $i)))
             (block $done
               (loop $next
                 (br_if $done (i32.eqz (local.get $n)))
                 (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                 (i32.store offset=8 (local.get $batch) (i32.const 1))
                 (i32.store offset=12 (local.get $batch) (i32.const 300))
                 (i32.store offset=16 (local.get $batch) (i32.const {length}))
                 (local.set $batch (i32.add (local.get $batch) (i32.const 36)))
                 (br $next)))
             (local.get $i)"
        ),
    )
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
    module("(i32.const 16)", body)
}

/// The same with this body of `configure`.
fn module(configure: &str, body: &str) -> Vec<u8> {
    parse(&module_text("", configure, body))
}

/// The text of a module with further definitions.
fn module_text(more: &str, configure: &str, body: &str) -> String {
    format!(
        r#"(module {PRELUDE} {MARKED} {more}
          (data (i32.const 100) "log flooded")
          (func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))
          (func (export "configure") (param i32 i32) (result i32) {configure})
          (func (export "transform") (param $batch i32) (param $n i32) (result i32) (local $i i32) {body}))"#
    )
}

fn parse(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("WebAssembly text")
}
