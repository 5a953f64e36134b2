//! duite: submit tasks over gRPC, run them on remote workers, and watch progress and state live.

pub mod cli;
pub mod domain;
pub mod engine;
pub mod journal;
pub mod proto;
pub mod runtime;
