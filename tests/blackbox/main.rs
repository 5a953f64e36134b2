//! The real binary, seen from outside over real gRPC: what is promised of the server as a whole.
//!
//! - `crash`: nothing acknowledged is lost or doubled by kill -9
//! - `slow_watcher`: a watcher that stops reading costs the server nothing
//! - `wrong_input`: every wrong input gets its code, its reason and a message that helps
//! - `startup`: time to be ready and memory, empty and with many finished tasks
//! - `leases`: a task never runs under two valid leases
//!
//! `DUITE_BIN` runs them against another binary, `DUITE_STRICT=1` in full size and against the
//! figures promised of a release build; the other settings are named where they are read.

mod crash;
mod leases;
mod slow_watcher;
mod startup;
mod support;
mod wrong_input;
