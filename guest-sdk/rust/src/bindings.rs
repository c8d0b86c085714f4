//! What `guest-sdk/wit/mapper.wit` becomes in Rust, generated at compile time.
//! The types serve natively as well; the imports only work inside the gateway.

#![allow(missing_docs, unsafe_code, unused_qualifications, clippy::all)]

wit_bindgen::generate!({
    path: "../wit",
    world: "mapper",
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "sluicegate_sdk::bindings",
});
