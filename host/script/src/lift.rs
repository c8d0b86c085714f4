//! From whatever WebAssembly an author's tool writes to a component.
//!
//! A component is taken as it is. A core module that exports the functions of
//! the world in their lowered form (canonical ABI) is wrapped into one, with
//! the world that its tool has left in a custom section or, without that, with
//! the gateway's own copy of the contract.

use std::borrow::Cow;

use wasmparser::{Encoding, ExternalKind, FuncType, Parser, Payload, Validator};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::error::LoadError;
use super::limits::MAX_SIZE;

/// The contract, as authors have it.
pub(super) const WIT: &str = include_str!("../../../guest-sdk/wit/mapper.wit");

/// The lowered functions that a core module must export, with their types.
const CORE_EXPORTS: [(&str, &str); 4] = [
    ("memory", "memory"),
    ("cabi_realloc", "func (i32, i32, i32, i32) -> i32"),
    ("configure", "func (i32, i32) -> i32"),
    ("transform", "func (i32, i32) -> i32"),
];

/// What can be said of a file at a glance.
pub(super) fn look_at(wasm: &[u8]) -> Result<(), LoadError> {
    if wasm.len() > MAX_SIZE {
        return Err(LoadError::TooLarge);
    }
    // Compiled code is an object file. To run somebody's is to trust him.
    if wasm.starts_with(b"\x7fELF") {
        return Err(LoadError::Compiled);
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm { start: wasm.iter().take(4).copied().collect() });
    }
    Ok(())
}

/// The bytes of a component.
pub(super) fn component(wasm: &[u8]) -> Result<Cow<'_, [u8]>, LoadError> {
    look_at(wasm)?;
    let scan = Scan::of(wasm)?;
    if scan.encoding == Encoding::Component {
        return Ok(Cow::Borrowed(wasm));
    }
    scan.check(wasm)?;
    let mut module = wasm.to_vec();
    if !scan.has_world {
        embed_world(&mut module)?;
    }
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| LoadError::Contract(format!("{e:#}")))?;
    Ok(Cow::Owned(component))
}

/// What decides how a file is taken.
struct Scan {
    encoding: Encoding,
    /// A tool has left the world it was built for.
    has_world: bool,
    /// Modules that are imported from, each once.
    imports: Vec<String>,
    exports: Vec<Export>,
}

struct Export {
    name: String,
    kind: ExternalKind,
    index: u32,
}

impl Scan {
    fn of(wasm: &[u8]) -> Result<Self, LoadError> {
        let mut scan =
            Self { encoding: Encoding::Module, has_world: false, imports: Vec::new(), exports: Vec::new() };
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.map_err(invalid)?;
            match payload {
                Payload::Version { encoding: Encoding::Component, .. } => {
                    // The compiler looks at the rest.
                    scan.encoding = Encoding::Component;
                    return Ok(scan);
                }
                Payload::CustomSection(section) => {
                    scan.has_world |= section.name().starts_with("component-type");
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let module = import.map_err(invalid)?.module;
                        if !scan.imports.iter().any(|known| known == module) {
                            scan.imports.push(module.to_owned());
                        }
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export.map_err(invalid)?;
                        let name = export.name.to_owned();
                        scan.exports.push(Export { name, kind: export.kind, index: export.index });
                    }
                }
                _ => {}
            }
        }
        Ok(scan)
    }

    /// What the encoder would find, too, but say in the words of its trade.
    fn check(&self, wasm: &[u8]) -> Result<(), LoadError> {
        let wasi: Vec<&str> =
            self.imports.iter().map(String::as_str).filter(|name| name.starts_with("wasi")).collect();
        if !wasi.is_empty() {
            return Err(LoadError::Wasi { imports: wasi.join(", ") });
        }
        let types = Validator::new().validate_all(wasm).map_err(invalid)?;
        for (name, expected) in CORE_EXPORTS {
            let wanted = if name == "memory" { ExternalKind::Memory } else { ExternalKind::Func };
            let export = self.exports.iter().find(|export| export.name == name && export.kind == wanted);
            let Some(export) = export else {
                let command = self.exports.iter().any(|export| export.name == "_start");
                let hint = if command { "; it is a program with `_start`: build a library" } else { "" };
                return Err(LoadError::Contract(format!("the module exports no `{name}: {expected}`{hint}")));
            };
            if wanted == ExternalKind::Func {
                let found = signature(types[types.as_ref().core_function_at(export.index)].unwrap_func());
                if found != expected {
                    return Err(LoadError::Contract(format!("`{name}` is `{found}`, expected `{expected}`")));
                }
            }
        }
        Ok(())
    }
}

/// A function's type as [`CORE_EXPORTS`] writes it.
fn signature(ty: &FuncType) -> String {
    let list =
        |types: &[wasmparser::ValType]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let results = match ty.results() {
        [] => String::new(),
        [one] => format!(" -> {one}"),
        several => format!(" -> ({})", list(several)),
    };
    format!("func ({}){results}", list(ty.params()))
}

fn invalid(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Invalid(error.to_string())
}

/// Leaves the world in the module, as tools with bindings do.
fn embed_world(module: &mut Vec<u8>) -> Result<(), LoadError> {
    let fail = |error: String| LoadError::Invalid(format!("the contract could not be embedded: {error}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("mapper.wit", WIT).map_err(|e| fail(e.to_string()))?;
    let world = resolve.select_world(&[package], Some("mapper")).map_err(|e| fail(e.to_string()))?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8).map_err(|e| fail(e.to_string()))
}
