//! duite: submit tasks over gRPC, run them on remote workers, and watch progress and state live.

pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
pub mod engine;
pub mod journal;
pub mod proto;
pub mod runtime;
pub mod service;
pub mod telemetry;
pub mod worker;

#[cfg(test)]
mod simulation;

pub use runtime::{create_task, decorate_task, pending_tasks};
