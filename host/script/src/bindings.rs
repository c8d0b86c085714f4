//! The contract `guest-sdk/wit/mapper.wit` as Rust types, generated.

#![allow(missing_docs, unused_qualifications, clippy::all)]
// The generated code implements wasmtime's ABI traits, which are unsafe.
#![allow(unsafe_code)]

wasmtime::component::bindgen!({
    path: "../../guest-sdk/wit",
    world: "mapper",
    imports: { default: trappable },
    exports: { default: async },
    // Messages are lowered from where they lie, without a copy before it.
    ownership: Borrowing { duplicate_if_necessary: true },
});
