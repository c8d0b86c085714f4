//! Whether a stream's script can be used, with its settings and tables.

use script::schema::{SettingsError, Step};
use script::{Engine, LoadError, Package, Script, Tables};
use settings::{StreamScript, StreamSettings};
use settings_reader::{ConfigError, Meanwhile};

use crate::wiring;

/// Loads the stream's script with its settings.
pub async fn try_script(settings: &StreamSettings, engine: &Engine) -> Vec<ConfigError> {
    try_script_alone(&StreamScript::of(settings), engine).await
}

/// The same, of a stream of which something else may be wrong.
pub async fn try_script_alone(of: &StreamScript, engine: &Engine) -> Vec<ConfigError> {
    let script = &of.settings;
    let error = |keys: &[&str], what: String, expected: String| {
        let meanwhile = Meanwhile::OthersRun(of.stream.clone());
        ConfigError::found_later(&of.path, keys, what, expected, meanwhile)
    };
    const WASM: &str = "a WebAssembly component or module that keeps the contract sluicegate:mapper";
    let package = match wiring::read_package(&script.source, of.destination) {
        Ok(package) => package,
        Err(reason) => return vec![error(&["script"], reason, WASM.to_owned())],
    };
    // They could be read a moment ago, or the stream would not be here.
    let tables = match Tables::read(&script.tables) {
        Ok(tables) => tables,
        Err(wrong) => return vec![error(&["tables", &wrong.table], wrong.what(), wrong.expected())],
    };
    let name = wiring::script_name(&script.source);
    let limits = wiring::limits(script);
    let recipe = match wiring::recipe(&package, &name, &script.settings, limits, tables) {
        Ok(recipe) => recipe,
        Err(SettingsError(faults)) => {
            return faults
                .iter()
                .map(|fault| {
                    let keys = fault.path.iter().map_while(|step| match step {
                        Step::Key(key) => Some(key.as_str()),
                        Step::Entry(_) => None,
                    });
                    let keys: Vec<&str> = ["script", "settings"].into_iter().chain(keys).collect();
                    error(&keys, fault.what(), fault.expected())
                })
                .collect();
        }
    };
    let Err(failed) = Script::load(engine, recipe).await else { return Vec::new() };
    vec![match failed {
        LoadError::Settings(reason) => {
            // The script says which setting it means, if it means one.
            let named = script.settings.as_object().into_iter().flat_map(|settings| settings.keys());
            let named = named.map(String::as_str).find(|key| reason.contains(&format!("`{key}`")));
            let keys: Vec<&str> = ["script", "settings"].into_iter().chain(named).collect();
            error(
                &keys,
                format!("the script `{name}` refuses its settings: {reason}"),
                known_settings(&package),
            )
        }
        other => error(&["script"], format!("the script `{name}` cannot be used: {other}"), WASM.to_owned()),
    }]
}

/// The settings that a script has, as far as it tells.
fn known_settings(package: &Package) -> String {
    match &package.manifest {
        Some(manifest) => {
            let names: Vec<String> =
                manifest.settings.properties().map(|(key, _)| format!("`{key}`")).collect();
            format!("the settings of `{}` are {}", manifest.name, names.join(", "))
        }
        None => "settings that the script accepts".to_owned(),
    }
}
