//! The messages of the bare service, and a codec that leaves them alone.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Paths of the bare service's methods.
pub(super) mod path {
    pub(in super::super) const SERVICE: &str = "duite.bench.v1.Bare";
    pub(in super::super) const ECHO: &str = "/duite.bench.v1.Bare/Echo";
    pub(in super::super) const ECHO_DURABLE: &str = "/duite.bench.v1.Bare/EchoDurable";
    pub(in super::super) const MESSAGES: &str = "/duite.bench.v1.Bare/Messages";
    pub(in super::super) const PUSH: &str = "/duite.bench.v1.Bare/Push";
    pub(in super::super) const PUSH_DECODED: &str = "/duite.bench.v1.Bare/PushDecoded";
    pub(in super::super) const ROUND_TRIPS: &str = "/duite.bench.v1.Bare/RoundTrips";
    pub(in super::super) const START_FAN_OUT: &str = "/duite.bench.v1.Bare/StartFanOut";
    pub(in super::super) const WATCH: &str = "/duite.bench.v1.Bare/Watch";
}

/// One small message, as generated code would have it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Small {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) payload: Bytes,
}

/// How many items a client stream carried.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Count {
    #[prost(uint64, tag = "1")]
    pub(super) items: u64,
}

/// What every watcher is sent from now on, and how often.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FanOut {
    /// An encoded message.
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) frame: Bytes,
    /// 0: as often as the server's runtime comes round.
    #[prost(uint32, tag = "2")]
    pub(super) updates_per_s: u32,
}

/// Passes encoded messages through: what is sent is copied into the frame, what is received is a
/// slice of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw(PhantomData)
    }

    fn decoder(&mut self) -> Raw {
        Raw(PhantomData)
    }
}

#[derive(Debug)]
pub(super) struct Raw(PhantomData<()>);

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
