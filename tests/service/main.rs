//! The gRPC services over an in-memory transport and a journal in memory: what a client of any
//! language sees, reason by reason.

mod admin;
mod backup;
mod error_groups;
mod errors;
mod push;
mod queues;
mod retry;
mod sandbox;
mod states;
mod steering;
mod tasks;
mod values;
mod watches;
mod workers;
