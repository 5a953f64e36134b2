//! What tests from outside share: the server as a process, calls over the wire, and the checker of
//! what clients saw.

pub(crate) mod history;
mod history_tests;
pub(crate) mod server;
pub(crate) mod wire;
