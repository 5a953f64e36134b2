//! The generated messages and services of `proto/duite/v1`.
//!
//! Fields of type `Value` in updates, entries and changes are `Bytes` here: an encoded
//! [`v1::Value`], passed on undecoded (see `build.rs`). So are the batches of a push frame and the
//! delta of a watch frame: the conversions here encode them where nobody is in a hurry.

use prost::Message;

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

impl From<v1::UpdateBatches> for v1::push_state_request::Frame {
    fn from(batches: v1::UpdateBatches) -> Self {
        Self::Batches(batches.encode_to_vec().into())
    }
}

impl From<v1::StateDelta> for v1::watch_state_response::Frame {
    fn from(delta: v1::StateDelta) -> Self {
        Self::Delta(delta.encode_to_vec().into())
    }
}
