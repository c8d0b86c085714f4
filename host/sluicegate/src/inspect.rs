//! `sluicegate inspect`: shows a script and its problems.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use gateway::wiring;
use script::{Anatomy, Engine, LoadError, Manifest, Package, Recipe, Script};
use serde_json::{Value, json};
use settings_reader::units::show_size_roughly;

use super::table::{Column, Table, printable};
use crate::print::{print_json, print_line};

/// Show a script's manifest, settings, test cases, imports, exports and problems
///
/// Compiles the script and starts it once. It runs no test case: see `sluicegate test`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sluicegate inspect speed.wasm
  sluicegate inspect adapters/speed --json
  sluicegate inspect mqtt-json

Exit status:
  0  the script can be used
  1  it cannot be used; the last lines say why
  2  invalid command line")]
pub struct InspectArgs {
    /// A .wasm file, the folder of an adapter, or the name of an official adapter
    #[arg(value_name = "FILE|FOLDER|NAME")]
    script: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What there is to say of a script.
struct Inspection {
    package: Package,
    /// None where it is no script.
    anatomy: Option<Anatomy>,
    problems: Vec<String>,
}

/// Runs the command.
pub async fn run(args: &InspectArgs) -> ExitCode {
    let package = match read(&args.script) {
        Ok(package) => package,
        Err(problem) => {
            eprintln!("sluicegate: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let engine = match Engine::new(1) {
        Ok(engine) => engine,
        Err(error) => {
            eprintln!("sluicegate: {error}");
            return ExitCode::FAILURE;
        }
    };
    let inspection = inspect(&engine, package).await;
    // A closed standard output (`| head`) is not an error of the script.
    let _ = if args.json {
        print_json(&inspection.to_json())
    } else {
        inspection.to_text().and_then(|text| print_line(text.trim_end()))
    };
    if inspection.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A path, or the name of an official adapter where there is no such path.
fn read(script: &Path) -> Result<Package, String> {
    let official = script.to_str().filter(|_| !script.exists()).and_then(adapters::package);
    official.map_or_else(|| wiring::package_at(script), Ok)
}

async fn inspect(engine: &Engine, package: Package) -> Inspection {
    let (anatomy, mut problems) = match Anatomy::of(&package) {
        Ok(anatomy) => (Some(anatomy), Vec::new()),
        Err(error) => (None, vec![error.to_string()]),
    };
    if anatomy.is_some() {
        problems.extend(try_to_start(engine, &package).await);
    }
    let silent = package.cases.iter().filter(|case| case.expected.is_none());
    problems.extend(silent.map(|case| format!("the case `{}` has no expected.jsonl", case.name)));
    for case in &package.cases {
        if let Err(error) = package.settings(&case.settings) {
            problems.push(format!("the case `{}`: its settings.json: {error}", case.name));
        }
    }
    Inspection { package, anatomy, problems }
}

/// With the defaults, if they are enough, or else the settings of a case.
async fn try_to_start(engine: &Engine, package: &Package) -> Option<String> {
    let candidates = [&Value::Null].into_iter().chain(package.cases.iter().map(|case| &case.settings));
    let settings = candidates.map(|settings| package.settings(settings)).find_map(Result::ok);
    let known = settings.is_some() && package.manifest.is_some();
    let settings = settings.unwrap_or(Value::Null);
    let recipe = Recipe { settings, ..Recipe::new("inspected", package.wasm.clone()) };
    match Script::load(engine, recipe).await {
        Ok(_) => None,
        // Without a manifest its settings are unknown.
        Err(LoadError::Settings(_)) if !known => None,
        Err(error) => Some(error.to_string()),
    }
}

// ----- impl Inspection -----

impl Inspection {
    fn to_text(&self) -> std::io::Result<String> {
        let mut text = String::new();
        match &self.package.manifest {
            Some(manifest) => {
                let _ = writeln!(text, "{} {}", manifest.name, manifest.version);
                let _ = writeln!(text, "  {}", printable(&manifest.description));
                let _ = writeln!(text, "  for      {}", printable(&manifest.destinations.join(", ")));
                let _ = writeln!(text, "  state    version {}", manifest.state_version);
            }
            None => text.push_str("a script without a manifest: only it knows its settings\n"),
        }
        let _ = writeln!(text, "  version  {}", self.package.version().full());
        if let Some(anatomy) = &self.anatomy {
            let form = if anatomy.is_component { "a component" } else { "a core module, lifted at load" };
            let size = |bytes: usize| show_size_roughly(bytes as u64);
            let (all, parts) = (size(anatomy.size), size(anatomy.parts_size));
            let _ = writeln!(text, "  size     {all}, {parts} of it manifest and cases; {form}");
            let _ = writeln!(text, "  exports  {}", printable(&anatomy.exports.join(", ")));
            let _ = writeln!(text, "  imports  {}", printable(&anatomy.imports.join(", ")));
        }
        if let Some(manifest) = &self.package.manifest {
            text.push('\n');
            text.push_str(&settings_table(manifest)?);
        }
        if !self.package.cases.is_empty() {
            let _ = writeln!(text, "\n{} cases", self.package.cases.len());
            for case in &self.package.cases {
                let messages: usize = case.batches().iter().map(Vec::len).sum();
                let _ = writeln!(text, "  {} ({messages})", printable(&case.name));
            }
        }
        if !self.problems.is_empty() {
            text.push_str("\nwrong with it\n");
            for problem in &self.problems {
                let _ = writeln!(text, "  {}", printable(problem));
            }
        }
        Ok(text)
    }

    fn to_json(&self) -> Value {
        let manifest = self.package.manifest.as_ref().map(|manifest| {
            let settings: Vec<Value> = manifest
                .settings
                .properties()
                .map(|(key, node)| {
                    json!({
                        "key": key,
                        "type": node.type_name(),
                        "expected": node.to_string(),
                        "required": manifest.settings.requires(key),
                        "default": node.default,
                        "description": node.description,
                    })
                })
                .collect();
            json!({
                "name": manifest.name,
                "version": manifest.version.to_string(),
                "description": manifest.description,
                "destinations": manifest.destinations,
                "state_version": manifest.state_version,
                "settings": settings,
            })
        });
        let cases: Vec<&str> = self.package.cases.iter().map(|case| case.name.as_str()).collect();
        let anatomy = self.anatomy.as_ref();
        json!({
            "manifest": manifest,
            "version": self.package.version().full(),
            "size": self.package.wasm.len(),
            "parts_size": anatomy.map(|anatomy| anatomy.parts_size),
            "component": anatomy.map(|anatomy| anatomy.is_component),
            "exports": anatomy.map(|anatomy| &anatomy.exports),
            "imports": anatomy.map(|anatomy| &anatomy.imports),
            "cases": cases,
            "problems": self.problems,
        })
    }
}

fn settings_table(manifest: &Manifest) -> std::io::Result<String> {
    let titles = ["SETTING", "TYPE", "DEFAULT", "MEANING"];
    let mut table = Table::new(titles.map(Column::Left));
    for (key, node) in manifest.settings.properties() {
        let default = match &node.default {
            Some(default) => default.to_string(),
            None if manifest.settings.requires(key) => "(required)".to_owned(),
            None => String::new(),
        };
        let meaning = node.description.as_deref().unwrap_or_default();
        table.row([key.into(), node.type_name().into(), default.into(), meaning.into()]);
    }
    let mut text = Vec::new();
    table.write(&mut text, None)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
