//! Compiled and linked code, shared by all scripts of the same bytes: many
//! streams use one adapter, each with settings of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};

use super::bindings::{self, MapperPre};
use super::fault::one_line;
use super::instance::Host;
use super::lift;
use super::load::LoadError;
use super::version::Version;

/// What a script's bytes have become.
pub(super) struct Program {
    pre: MapperPre<Host>,
}

/// The programs in use. A place is locked while its program is compiled, so
/// that whoever wants the same one waits instead of compiling it again.
#[derive(Default)]
pub(super) struct Programs {
    places: Mutex<HashMap<(Version, bool), Arc<Place>>>,
}

type Place = Mutex<Weak<Program>>;

/// What a component must export, as the contract writes it.
const EXPORTS: [(&str, &str); 2] = [
    ("configure", "func(settings: string) -> result<_, string>"),
    ("transform", "func(batch: list<message>) -> result<mapping, string>"),
];

// ----- impl Program -----

impl Program {
    pub(super) fn pre(&self) -> &MapperPre<Host> {
        &self.pre
    }
}

// ----- impl Programs -----

impl Programs {
    /// The program of these bytes, compiled now if nobody uses it yet, for the
    /// first of the engines that it fits. `roomy` tells the choices of engines
    /// apart. Blocks.
    pub(super) fn get<'e>(
        &self,
        version: &Version,
        roomy: bool,
        engines: impl Iterator<Item = &'e wasmtime::Engine>,
        wasm: &[u8],
    ) -> Result<Arc<Program>, LoadError> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            // Forget what nobody uses, and nobody waits for.
            places.retain(|_, place| {
                Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|p| p.strong_count() > 0)
            });
            places.entry((version.clone(), roomy)).or_default().clone()
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = place.upgrade() {
            return Ok(program);
        }
        let program = Arc::new(Program { pre: compile(engines, wasm)? });
        *place = Arc::downgrade(&program);
        Ok(program)
    }
}

/// Lifts, compiles and links for the first of these engines that it fits.
fn compile<'e>(
    engines: impl Iterator<Item = &'e wasmtime::Engine>,
    wasm: &[u8],
) -> Result<MapperPre<Host>, LoadError> {
    let bytes = lift::component(wasm)?;
    let mut failure = None;
    for engine in engines {
        match Component::new(engine, &bytes) {
            Ok(component) => return link(engine, &component),
            Err(error) => failure = Some(error),
        }
    }
    Err(LoadError::Invalid(failure.map_or_else(String::new, |error| chain(&error))))
}

fn link(engine: &wasmtime::Engine, component: &Component) -> Result<MapperPre<Host>, LoadError> {
    let ty = component.component_type();
    let wasi: Vec<&str> =
        ty.imports(engine).map(|(name, _)| name).filter(|name| name.starts_with("wasi:")).collect();
    if !wasi.is_empty() {
        return Err(LoadError::Wasi { imports: wasi.join(", ") });
    }
    for (name, signature) in EXPORTS {
        match ty.get_export(engine, name).map(|item| item.ty) {
            Some(ComponentItem::ComponentFunc(_)) => {}
            Some(_) => return Err(LoadError::Contract(format!("`{name}` must be `{signature}`"))),
            None => return Err(LoadError::Contract(format!("it exports no `{name}: {signature}`"))),
        }
    }
    let mut linker = Linker::new(engine);
    bindings::Mapper::add_to_linker::<_, HasSelf<_>>(&mut linker, |host: &mut Host| host)
        .map_err(|error| LoadError::Invalid(chain(&error)))?;
    let pre = linker.instantiate_pre(component).map_err(|error| {
        LoadError::Contract(format!(
            "{}; the gateway offers sluicegate:mapper/log@0.1.0 and sluicegate:mapper/state@0.1.0 only",
            chain(&error)
        ))
    })?;
    MapperPre::new(pre).map_err(|error| LoadError::Contract(signature_error(&error)))
}

/// The compiler's words for what differs, and the contract's.
fn signature_error(error: &wasmtime::Error) -> String {
    let expected: Vec<String> = EXPORTS.iter().map(|(name, ty)| format!("`{name}: {ty}`")).collect();
    format!("{}; expected {}", chain(error), expected.join(" and "))
}

/// All causes, outermost first, on one line.
pub(super) fn chain(error: &wasmtime::Error) -> String {
    one_line(&format!("{error:#}"))
}
