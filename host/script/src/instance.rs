//! One running instance of a script: its store, its limits, its two calls.

use message::Message;
use wasmtime::{Store, Trap, UpdateDeadline};

use super::bindings::{self, MapperPre};
use super::fault::ScriptFault;
use super::host::Host;
use super::limits::{Budget, HostCalls, Limits, MemoryGuard};
use super::log::Log;
use super::recycling::{RecycleReason, Usage};
use super::state::StateCall;
use super::tables::Tables;
use super::text::one_line;

/// An instance that has been configured. Wasmtime poisons the whole store of
/// an instance that trapped, so each has a store of its own and is thrown away
/// after a fault.
pub(super) struct Instance {
    store: Store<Host>,
    bindings: bindings::Mapper,
    usage: Usage,
}

/// Why there is no instance.
#[derive(Debug)]
pub(super) enum StartError {
    /// Instantiation itself failed: no room, or exports of another type.
    Instantiate(wasmtime::Error),
    /// The start function or `configure` ended with a fault.
    Fault(ScriptFault),
    /// `configure` refused the settings.
    Refused(String),
}

impl Instance {
    /// Instantiates and configures.
    pub(super) async fn start(
        pre: &MapperPre<Host>,
        settings: &str,
        limits: &Limits,
        tables: &Tables,
        log: Log,
    ) -> Result<Self, StartError> {
        let host = Host {
            memory: MemoryGuard::new(limits.memory),
            memory_limit: limits.memory,
            output_limit: limits.output_bytes,
            log,
            state: None,
            calls: HostCalls::default(),
            tables: tables.clone(),
            last_words: None,
            budget: Budget::default(),
        };
        let mut store = Store::new(pre.engine(), host);
        store.limiter(|host| &mut host.memory);
        // What one call may make the host allocate: the output, and the
        // records around it. It also stops lists that overlap in the guest's
        // memory from growing a thousandfold on their way out.
        store.set_hostcall_fuel(limits.output_bytes.saturating_mul(2).saturating_add(1 << 20));
        store.epoch_deadline_callback(|mut store| {
            Ok(if store.data_mut().budget.spend() {
                // Not wasmtime's own yield, which wakes itself at once: this
                // one also lets the thread look after its sockets.
                UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))
            } else {
                UpdateDeadline::Interrupt
            })
        });
        let time = limits.time_of(0);
        begin(&mut store, limits, 0);
        let bindings = match pre.instantiate_async(&mut store).await {
            Ok(bindings) => bindings,
            Err(error) if error.downcast_ref::<Trap>().is_some() || store.data().memory.refused() => {
                return Err(StartError::Fault(ScriptFault::of(&error, store.data(), time)));
            }
            Err(error) => return Err(StartError::Instantiate(error)),
        };
        begin(&mut store, limits, 0);
        match bindings.call_configure(&mut store, settings).await {
            Ok(Ok(())) => Ok(Self { store, bindings, usage: Usage::default() }),
            Ok(Err(text)) => Err(StartError::Refused(one_line(&text))),
            Err(error) => Err(StartError::Fault(ScriptFault::of(&error, store.data(), time))),
        }
    }

    /// Maps a batch. The state comes back with what the call did to it; the
    /// caller commits it or lets it fall.
    pub(super) async fn transform(
        &mut self,
        batch: &[Message],
        state: StateCall,
        limits: &Limits,
    ) -> Result<(bindings::Mapping, Option<StateCall>), ScriptFault> {
        let messages: Vec<bindings::Message<'_>> = batch
            .iter()
            .map(|message| bindings::Message {
                topic: &message.topic,
                payload: &message.payload,
                received_at: message.received_at,
            })
            .collect();
        self.store.data_mut().state = Some(state);
        begin(&mut self.store, limits, batch.len());
        let outcome = self.bindings.call_transform(&mut self.store, &messages).await;
        let state = self.store.data_mut().state.take();
        match outcome {
            Ok(Ok(mapping)) => Ok((mapping, state)),
            Ok(Err(text)) => Err(ScriptFault::Failed(one_line(&text))),
            Err(error) => Err(ScriptFault::of(&error, self.store.data(), limits.time_of(batch.len()))),
        }
    }

    /// Why a fresh instance should replace this one, if it should. Call this
    /// once after each call.
    pub(super) fn recycle_reason(&mut self) -> Option<RecycleReason> {
        let host = self.store.data();
        self.usage.after_call(host.memory.held(), host.memory_limit)
    }
}

/// Gives the next call, with so many messages, what it may use. The deadline is
/// relative to now and must be set before every call: without it a reused store
/// would stop at once.
fn begin(store: &mut Store<Host>, limits: &Limits, messages: usize) {
    store.set_epoch_deadline(1);
    let host = store.data_mut();
    host.budget.start(limits.time_of(messages));
    host.calls.start(limits.host_calls_of(messages), limits.host_call_bytes);
    host.memory.start();
    host.last_words = None;
}
