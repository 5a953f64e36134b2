//! The generated messages and services of `proto/duite/v1`.
//!
//! Fields of type `Value` in updates, entries and changes are `Bytes` here: an encoded
//! [`v1::Value`], passed on undecoded (see `build.rs`).

/// Package `duite.v1`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all
)]
pub mod v1 {
    tonic::include_proto!("duite.v1");
}

/// The descriptor set as the files have it, for reflection and for JSON output.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/duite_descriptor.bin"));
