//! The official adapters, embedded in the binary: for each a compiled script
//! and what its manifest `adapter.toml` says.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

/// An official adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What its manifest says.
    pub manifest: Manifest,
    /// The WebAssembly module.
    pub wasm: &'static [u8],
}

/// What `adapter.toml` says.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// As `[script] adapter` names it.
    pub name: String,
    /// Version of the adapter.
    pub version: String,
    /// What it does, in one sentence.
    pub description: String,
    /// The `[destination] type`s that it maps for.
    pub destinations: Vec<String>,
    /// JSON Schema of `[script.settings]`, with descriptions and defaults.
    pub settings: Value,
}

/// All official adapters.
pub fn all() -> &'static [Adapter] {
    &ADAPTERS
}

/// The official adapter of that name.
pub fn official(name: &str) -> Option<&'static Adapter> {
    ADAPTERS.iter().find(|adapter| adapter.manifest.name == name)
}

/// The first adapter that maps for a destination of that type.
pub fn for_destination(destination: &str) -> Option<&'static Adapter> {
    ADAPTERS.iter().find(|adapter| adapter.manifest.destinations.iter().any(|d| d == destination))
}

/// Their names, with commas, for texts that say what there is.
pub fn names() -> String {
    let names: Vec<&str> = ADAPTERS.iter().map(|adapter| adapter.manifest.name.as_str()).collect();
    names.join(", ")
}

/// Name, module and manifest of each, written by the build script.
const EMBEDDED: &[(&str, &[u8], &str)] = include!(concat!(env!("OUT_DIR"), "/adapters.rs"));

static ADAPTERS: LazyLock<Vec<Adapter>> = LazyLock::new(|| {
    EMBEDDED
        .iter()
        .map(|(name, wasm, manifest)| match toml::from_str(manifest) {
            Ok(manifest) => Adapter { manifest, wasm },
            // Fixed at build time; the test below has read every one of them.
            Err(error) => panic!("scripts/{name}/adapter.toml: {error}"),
        })
        .collect()
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_manifest_can_be_read_and_names_its_folder() {
        for ((folder, wasm, _), adapter) in EMBEDDED.iter().zip(all()) {
            assert_eq!(adapter.manifest.name, *folder);
            assert!(wasm.starts_with(b"\0asm"));
            assert!(!adapter.manifest.description.is_empty());
            let settings = &adapter.manifest.settings;
            assert_eq!(settings["type"], "object", "{folder}");
            for (key, property) in settings["properties"].as_object().unwrap() {
                assert!(property["description"].is_string(), "{folder}: {key} has no description");
            }
        }
        assert_eq!(names(), "aws-shadow, thingsboard-gateway, wialon-retranslator, http-json, mqtt-json");
        assert!(official("aws-shadow").is_some() && official("aws").is_none());
    }

    #[test]
    fn each_destination_has_its_adapter() {
        let pairs = [
            ("aws-iot", "aws-shadow"),
            ("thingsboard", "thingsboard-gateway"),
            ("wialon", "wialon-retranslator"),
            ("http", "http-json"),
            ("mqtt", "mqtt-json"),
        ];
        for (destination, adapter) in pairs {
            assert_eq!(for_destination(destination).unwrap().manifest.name, adapter);
        }
    }
}
