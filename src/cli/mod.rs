//! The `duite` command line: one module per command.

pub mod bench;
