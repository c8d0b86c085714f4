//! What a script's WebAssembly consists of, for people.

use wasmparser::{ComponentTypeRef, Encoding, Parser, Payload};

use super::error::LoadError;
use super::package::Package;
use super::{lift, sections};

/// What a script's WebAssembly consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anatomy {
    /// A component, or a core module that is lifted when it is loaded.
    pub is_component: bool,
    /// What the component asks of the gateway, by its names in the contract.
    pub imports: Vec<String>,
    /// What it offers.
    pub exports: Vec<String>,
    /// Bytes of the file.
    pub size: usize,
    /// Of them, bytes of manifest and cases.
    pub parts_size: usize,
}

impl Anatomy {
    /// Looks into a package; an error if it is not WebAssembly, or none that can
    /// be lifted.
    pub fn of(package: &Package) -> Result<Self, LoadError> {
        let wasm = &package.wasm;
        let component = lift::component(wasm)?;
        let stripped = sections::strip(wasm).len();
        let mut anatomy = Self {
            is_component: Parser::is_component(wasm),
            imports: Vec::new(),
            exports: Vec::new(),
            size: wasm.len(),
            parts_size: wasm.len() - stripped,
        };
        let invalid = |error: wasmparser::BinaryReaderError| LoadError::Invalid(error.to_string());
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(&component) {
            match payload.map_err(invalid)? {
                Payload::Version { encoding: Encoding::Component | Encoding::Module, .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        let import = import.map_err(invalid)?;
                        // A type is no wish: nothing has to be there for it.
                        if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                            anatomy.imports.push(import.name.name.to_owned());
                        }
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        anatomy.exports.push(export.map_err(invalid)?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(anatomy)
    }
}
