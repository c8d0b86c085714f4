//! Compiled and linked code, shared by all scripts of the same bytes: many
//! streams use one adapter, each with settings of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker};

use super::bindings::{self, MapperPre};
use super::error::LoadError;
use super::host::Host;
use super::text::chain;
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

type Place = sync::Mutex<Weak<Program>>;

/// What a component must export, as the contract writes it.
const EXPORTS: [(&str, &str); 2] = [
    ("configure", "func(settings: string) -> result<_, string>"),
    ("transform", "func(batch: list<message>) -> result<mapping, string>"),
];

// ----- impl Program -----

impl Program {
    /// Links code for the first of these engines that it fits.
    pub(super) fn link(engines: &[wasmtime::Engine], code: &[u8]) -> Result<Self, LoadError> {
        let mut failure = None;
        for engine in engines {
            match component(engine, code) {
                Ok(component) => return Ok(Self { pre: link(engine, &component)? }),
                Err(error) => failure = Some(error),
            }
        }
        Err(LoadError::Invalid(failure.map_or_else(String::new, |error| chain(&error))))
    }

    pub(super) fn pre(&self) -> &MapperPre<Host> {
        &self.pre
    }
}

// ----- impl Programs -----

impl Programs {
    /// The program of that version, made now if nobody uses it yet. `roomy`
    /// tells the choices of engines apart.
    pub(super) async fn get(
        &self,
        version: &Version,
        roomy: bool,
        make: impl Future<Output = Result<Program, LoadError>>,
    ) -> Result<Arc<Program>, LoadError> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            // Forget what nobody uses, and nobody waits for.
            places.retain(|_, place| {
                Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|p| p.strong_count() > 0)
            });
            places.entry((version.clone(), roomy)).or_default().clone()
        };
        let mut place = place.lock().await;
        if let Some(program) = place.upgrade() {
            return Ok(program);
        }
        let program = Arc::new(make.await?);
        *place = Arc::downgrade(&program);
        Ok(program)
    }
}

/// The component that code was compiled from, for one engine.
#[allow(unsafe_code)]
fn component(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the code must be what a compiler of this version of wasmtime has
    // written. It comes from `compile` only: from the compiler in this process
    // or in a child that runs the same program, or from a file that one of them
    // has left in a folder for this user alone, whose SHA-256 was verified when
    // it was read. It lies in memory that nobody else has: a mapped file could
    // be written to after it was verified. What users hand in is never taken
    // for code (`lift::look_at`).
    unsafe { Component::deserialize(engine, code) }
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
            "{}; the gateway offers the interfaces log, state and table of sluicegate:mapper@0.1.0 only",
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
