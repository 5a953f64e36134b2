//! The command line from outside: the real binary, real ports, a folder of its own for each test.

mod client;
mod config;
mod errors;
mod exec;
mod queue;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod trace;
mod wrong;
