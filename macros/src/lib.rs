//! The attribute `#[duite::task]`; it is used through the crate `duite`.
