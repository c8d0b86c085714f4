//! The settings of wasmtime, the same for the gateway and the compiler process.

use std::num::NonZeroUsize;

use wasmtime::{Config, OptLevel, Strategy};

/// What all scripts run under. The reasons are measurements of this workload
/// (parsing and writing JSON of 650 bytes).
pub(super) fn config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .parallel_compilation(true)
        // Off: the bookkeeping for concurrent guest tasks costs 0.6 to 1.5 us
        // a call, and a mapper has one task.
        .concurrency_support(false)
        // The only interruption that needs no cooperation: +32 to 39 % time
        // on byte loops. Scripts are not trusted.
        .epoch_interruption(true)
        .consume_fuel(false)
        // The same input gives the same output on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_simd(true)
        .wasm_memory64(false)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20)
        .wasm_backtrace_max_frames(NonZeroUsize::new(20));
    config
}
