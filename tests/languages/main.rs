//! Clients and workers in other languages, all of stock generated code, against the real binary.
//!
//! - `propagation`: trace context from and to plain OpenTelemetry gRPC clients
//! - `traces`: one trace from a submitter to the attempts of a worker, both in Python
//! - `groups`: a thousand failures in three languages fall into the groups of their seven causes
//!
//! The programs are in `python/`, `node/` and `go/`; what they need is installed by
//! `scripts/tools install`. Where it is missing a test passes, and says so, but fails with `CI` set.

mod groups;
#[path = "../support/language.rs"]
mod language;
mod propagation;
mod receiver;
#[path = "../support/mod.rs"]
mod support;
mod traces;
