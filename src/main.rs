//! The `duite` binary.

fn main() {}
