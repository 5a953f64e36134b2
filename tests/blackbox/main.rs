//! The real binary, seen from outside over real gRPC: what is promised of the server as a whole.
//!
//! - `chaos`: tasks keep their promises while server and workers are killed, paused and cut off
//! - `checkpoint`: the attempt that follows a lost one goes on where that one stopped
//! - `crash`: nothing acknowledged is lost or doubled by kill -9
//! - `resets`: connections that are reset and a server that is frozen lose and double nothing
//! - `slow_watcher`: a watcher that stops reading costs the server nothing
//! - `wrong_input`: every wrong input gets its code, its reason and a message that helps
//! - `startup`: time to be ready and memory, empty and with many finished tasks
//! - `journal`: the data folder killed, torn, damaged, full, read-only, backed up and restored
//! - `leases`: a task never runs under two valid leases
//! - `queues`: no tenant starves another, limits and pauses hold
//! - `traces`: what a collector is told of tasks, also of those whose worker or server died
//! - `suspects`: a worker that vanished or hangs is told of, and its task runs again
//!
//! `DUITE_BIN` runs them against another binary, `DUITE_STRICT=1` in full size and against the
//! figures promised of a release build; the other settings are named where they are read.

mod chaos;
mod checkpoint;
mod crash;
#[path = "../support/history/mod.rs"]
mod history;
mod history_tests;
mod journal;
mod leases;
#[path = "../support/otlp.rs"]
mod otlp;
mod queues;
mod resets;
mod slow_watcher;
mod startup;
#[path = "../support/mod.rs"]
mod support;
mod suspects;
mod tasks_tests;
mod traces;
mod truth_tests;
#[path = "../support/wire.rs"]
mod wire;
mod wrong_input;

/// Whether figures are checked against what is promised of a release build, and in full size.
fn is_strict() -> bool {
    std::env::var("DUITE_STRICT").is_ok_and(|set| set == "1")
}

/// A whole number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a whole number, it is {text:?}")),
        Err(_) => default,
    }
}
