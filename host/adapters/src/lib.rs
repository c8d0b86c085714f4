//! The official adapters, embedded in the binary: packages like any other.

use std::sync::LazyLock;

use bytes::Bytes;
use script::cases::Case;
use script::manifest::Manifest;
use script::package::Package;

/// An official adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What its manifest says.
    pub manifest: Manifest,
    /// The package.
    pub wasm: Bytes,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// All official adapters.
pub fn all() -> &'static [Adapter] {
    &ADAPTERS
}

/// The official adapter of that name.
pub fn official(name: &str) -> Option<&'static Adapter> {
    ADAPTERS.iter().find(|adapter| adapter.manifest.name == name)
}

/// The package of the official adapter of that name.
pub fn package(name: &str) -> Option<Package> {
    official(name).map(|adapter| Package {
        manifest: Some(adapter.manifest.clone()),
        wasm: adapter.wasm.clone(),
        cases: adapter.cases.clone(),
    })
}

/// Their names, with commas, for texts that say what there is.
pub fn names() -> String {
    let names: Vec<&str> = ADAPTERS.iter().map(|adapter| adapter.manifest.name.as_str()).collect();
    names.join(", ")
}

/// Name and package of each, written by the build script.
const EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/adapters.rs"));

static ADAPTERS: LazyLock<Vec<Adapter>> = LazyLock::new(|| {
    EMBEDDED
        .iter()
        .map(|(name, wasm)| match Package::parse(Bytes::from_static(wasm)) {
            Ok(Package { manifest: Some(manifest), wasm, cases }) => Adapter { manifest, wasm, cases },
            // Fixed at build time; the test below has read every one of them.
            Ok(_) => panic!("scripts/{name} has no manifest"),
            Err(error) => panic!("scripts/{name}: {error}"),
        })
        .collect()
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_manifest_can_be_read_and_names_its_folder() {
        for ((folder, wasm), adapter) in EMBEDDED.iter().zip(all()) {
            assert_eq!(adapter.manifest.name, *folder);
            assert!(wasm.starts_with(b"\0asm"));
            assert!(!adapter.manifest.description.is_empty());
            assert!(adapter.manifest.version.major >= 1, "{folder} is official");
            for (key, property) in adapter.manifest.settings.properties() {
                assert!(property.description.is_some(), "{folder}: {key} has no description");
            }
        }
        assert_eq!(names(), "aws-shadow, thingsboard-gateway, wialon-retranslator, http-json, mqtt-json");
        assert!(official("aws-shadow").is_some() && official("aws").is_none());
    }
}
