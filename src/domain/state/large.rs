//! Large values, kept out of line.
//!
//! A preview image must not delay a progress number, nor fill the mirror. So a value above
//! [`MAX_INLINE_VALUE_BYTES`] is a journal entry of its own ([`LargeValue`]), appended right before
//! the delta whose `put` names it by its uid ([`LargePut`]), and read back by position when
//! somebody wants it. The state holds a reference ([`LargeRef`]), never the bytes; so do deltas,
//! snapshots and watches.
//!
//! A fold reads only its own entity's entries: the value entry belongs to the state's entity, like
//! the delta that claims it. Folding it notes where the uid stands; folding the delta looks that
//! up. What a delta names and does not take (a fenced part, a duplicate), and what no delta ever
//! names (the process died between the two), is a dead entry: harmless, and superseded by the next
//! snapshot together with the values that were replaced. A value entry changes nothing by itself,
//! so a compare-and-set on a state's last entry does not count it.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::domain::{
    id::{Revision, Uid},
    limits::MAX_INLINE_VALUE_BYTES,
};

use super::{
    delta::{KeyOp, Op},
    value::{ValueKind, check_value},
};

/// Value entries of one state that no delta has claimed yet: those of the group in flight, and
/// what a crash left. A group holds a few hundred at most; the oldest beyond it are dead.
const MAX_UNCLAIMED: usize = 1_024;

/// A value as an entry of its own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LargeValue {
    /// Last segment of the state's name.
    #[prost(string, tag = "1")]
    pub state: String,
    /// What the delta names it by.
    #[prost(bytes = "bytes", tag = "2")]
    pub uid: Bytes,
    /// An encoded `duite.v1.Value`.
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
}

/// Sets a key to a value that stands in an entry of its own.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LargePut {
    /// Uid of that entry; empty until the delta is planned.
    #[prost(bytes = "bytes", tag = "1")]
    pub uid: Bytes,
    /// Bytes of the encoded value.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// A blob's media type; empty for other kinds.
    #[prost(string, tag = "3")]
    pub content_type: String,
    /// SHA-256 of the encoded value.
    #[prost(bytes = "bytes", tag = "4")]
    pub sha256: Bytes,
    /// The encoded value on its way to the monitor, also in the record of a finishing task. No
    /// delta has it: planning moves it to its own entry.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
}

/// Where a key's large value stands, and what can be told without it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LargeRef {
    /// Revision of its entry.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// Bytes of the encoded value.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// A blob's media type; empty for other kinds.
    #[prost(string, tag = "3")]
    pub content_type: String,
    /// SHA-256 of the encoded value.
    #[prost(bytes = "bytes", tag = "4")]
    pub sha256: Bytes,
}

/// A key's value, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// An encoded `duite.v1.Value`.
    Inline(Bytes),
    /// Its value is an entry of its own.
    Large(Arc<LargeRef>),
}

impl Stored {
    /// Bytes of the encoded value, wherever it is.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Inline(value) => value.len(),
            Self::Large(large) => large.size(),
        }
    }

    /// Bytes of it that are an entry of their own.
    pub(super) fn large_size(&self) -> usize {
        self.large().map_or(0, LargeRef::size)
    }

    /// The encoded value, where it is at hand.
    #[must_use]
    pub fn inline(&self) -> Option<&Bytes> {
        match self {
            Self::Inline(value) => Some(value),
            Self::Large(_) => None,
        }
    }

    /// Where it is, if it is not at hand.
    #[must_use]
    pub fn large(&self) -> Option<&LargeRef> {
        match self {
            Self::Inline(_) => None,
            Self::Large(large) => Some(large),
        }
    }
}

impl LargeRef {
    /// Bytes of the encoded value.
    #[must_use]
    pub fn size(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }

    /// Revision of its entry.
    #[must_use]
    pub fn at(&self) -> Revision {
        Revision(self.revision)
    }

    /// Copied, so that it does not keep the block it was decoded from.
    pub(super) fn detached(&self) -> Self {
        Self {
            sha256: Bytes::copy_from_slice(&self.sha256),
            ..self.clone()
        }
    }
}

impl LargePut {
    /// A value that is large enough, and valid. Hashes and copies it, so this belongs where a batch
    /// arrives and not into the monitor. Copied, because it is a slice of its message, and those
    /// who keep the value would keep all of that.
    #[must_use]
    pub fn of(value: &[u8]) -> Option<Self> {
        if value.len() <= MAX_INLINE_VALUE_BYTES {
            return None;
        }
        let content_type = match check_value(value).ok()? {
            ValueKind::Blob(blob) => blob.content_type.to_owned(),
            _ => String::new(),
        };
        Some(Self {
            uid: Bytes::new(),
            size: value.len() as u64,
            content_type,
            sha256: Bytes::copy_from_slice(&Sha256::digest(value)),
            value: Bytes::copy_from_slice(value),
        })
    }

    /// The reference to a value whose entry stands at `revision`.
    pub(super) fn at(&self, revision: Revision) -> LargeRef {
        LargeRef {
            revision: revision.0,
            size: self.size,
            content_type: self.content_type.clone(),
            sha256: Bytes::copy_from_slice(&self.sha256),
        }
    }

    /// Gives the value away as an entry, under a uid that `uid` makes.
    pub fn take_entry(&mut self, state: &str, uid: Uid) -> LargeValue {
        self.uid = uid.to_bytes();
        LargeValue {
            state: state.to_owned(),
            uid: self.uid.clone(),
            value: std::mem::take(&mut self.value),
        }
    }

    /// Bytes of the encoded value.
    #[must_use]
    pub fn size(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }
}

impl KeyOp {
    /// Makes a `put` of a large value one that is kept out of line; see [`LargePut::of`].
    pub(super) fn set_apart(&mut self) {
        if let Some(Op::Put(value)) = &self.op
            && let Some(put) = LargePut::of(value)
        {
            self.op = Some(Op::PutLarge(Box::new(put)));
        }
    }
}

/// Value entries that no delta has named yet, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Unclaimed(Vec<(Uid, Revision)>);

impl Unclaimed {
    pub(super) fn note(&mut self, uid: Uid, revision: Revision) {
        if self.0.len() >= MAX_UNCLAIMED {
            self.0.remove(0);
        }
        self.0.push((uid, revision));
    }

    /// Where the value stands. The newest counts: an entry may have been appended twice.
    pub(super) fn find(&self, uid: &[u8]) -> Option<Revision> {
        let uid = Uid::from_bytes(uid)?;
        let mut newest = self.0.iter().rev();
        let found = newest.find(|(noted, _)| *noted == uid);
        found.map(|(_, revision)| *revision)
    }

    /// Forgets what a delta names, taken or not.
    pub(super) fn settle<'a>(&mut self, mut named: impl Iterator<Item = &'a KeyOp>) {
        while !self.0.is_empty()
            && let Some(op) = named.next()
        {
            if let Some(Op::PutLarge(put)) = &op.op
                && let Some(uid) = Uid::from_bytes(&put.uid)
            {
                self.0.retain(|(noted, _)| *noted != uid);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
