//! The opaque tokens clients hold: where a watch stands, which lease, which page.
//!
//! They carry no authorization. Each begins with a version byte, so that a later format is told
//! from this one.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use crate::domain::{
    Epoch, Error, NamespaceId, Reason, Revision, TaskId, Uid, id::parse_namespace,
};

const VERSION: u8 = 1;

/// A revision with the epoch in which it means something and, where a watch issued it, the
/// digest of that watch's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    /// The store's life.
    pub epoch: Epoch,
    /// The position.
    pub revision: Revision,
    /// Digest of the watch's filter; a token without one starts any watch.
    pub filter: Option<u64>,
}

impl ResumeToken {
    /// At most 33 bytes.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut bytes = Vec::with_capacity(33);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&self.revision.0.to_be_bytes());
        if let Some(filter) = self.filter {
            bytes.extend_from_slice(&filter.to_be_bytes());
        }
        bytes.into()
    }

    /// `RESUME_TOKEN_MALFORMED` for anything this service did not make.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let malformed = || {
            Error::new(
                Reason::ResumeTokenMalformed,
                format!(
                    "the resume token of {} bytes is not one this service made: start without it",
                    bytes.len()
                ),
            )
        };
        let (&version, rest) = bytes.split_first().ok_or_else(malformed)?;
        let (epoch, rest) = rest.split_at_checked(16).ok_or_else(malformed)?;
        let (revision, filter) = rest.split_at_checked(8).ok_or_else(malformed)?;
        if version != VERSION || !matches!(filter.len(), 0 | 8) {
            return Err(malformed());
        }
        Ok(Self {
            epoch: Uid::from_bytes(epoch).ok_or_else(malformed)?,
            revision: Revision(number(revision).ok_or_else(malformed)?),
            filter: number(filter),
        })
    }
}

/// A worker's right to run one attempt, as it holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    /// Where the task lives.
    pub namespace: NamespaceId,
    /// The task.
    pub task: TaskId,
    /// Which lease of the task.
    pub fence: u64,
    /// What makes it impossible to guess.
    pub secret: u64,
}

impl LeaseToken {
    /// At most 274 bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let namespace = self.namespace.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(18 + namespace.len() + self.task.as_str().len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.fence.to_be_bytes());
        bytes.extend_from_slice(&self.secret.to_be_bytes());
        bytes.push(u8::try_from(namespace.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(namespace);
        bytes.extend_from_slice(self.task.as_str().as_bytes());
        bytes.into()
    }

    /// `LEASE_TOKEN_MALFORMED` for anything this service did not make.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        Self::read(bytes).ok_or_else(|| {
            Error::new(
                Reason::LeaseTokenMalformed,
                format!("the lease token of {} bytes is not one this service made: send it as LeaseTasks gave it", bytes.len()),
            )
        })
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (fence, rest) = rest.split_at_checked(8)?;
        let (secret, rest) = rest.split_at_checked(8)?;
        let (&length, rest) = rest.split_first()?;
        let (namespace, task) = rest.split_at_checked(usize::from(length))?;
        if version != VERSION {
            return None;
        }
        Some(Self {
            namespace: NamespaceId::parse(std::str::from_utf8(namespace).ok()?).ok()?,
            task: TaskId::parse(std::str::from_utf8(task).ok()?).ok()?,
            fence: number(fence)?,
            secret: number(secret)?,
        })
    }
}

/// Where a list goes on: after a key, for the same request, with the first page's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// Digest of the request's filter.
    pub filter: u64,
    /// Position of the first page.
    pub first_page: Revision,
    /// The last key given.
    pub after: String,
}

impl PageToken {
    /// Printable.
    #[must_use]
    pub fn encode(&self) -> String {
        format!(
            "{:016x}{:016x}{}",
            self.filter, self.first_page.0, self.after
        )
    }

    /// `PAGE_TOKEN_MISMATCH` for a token of another request or of nobody.
    pub fn decode(text: &str, filter: u64) -> Result<Self, Error> {
        let read = || {
            let hex = |from: usize| u64::from_str_radix(text.get(from..from + 16)?, 16).ok();
            Some(Self {
                filter: hex(0)?,
                first_page: Revision(hex(16)?),
                after: text[32..].into(),
            })
        };
        read().filter(|token| token.filter == filter).ok_or_else(|| {
            Error::new(
                Reason::PageTokenMismatch,
                "the page token belongs to another request: repeat the first call's arguments, or start without it",
            )
        })
    }
}

/// A digest for telling whether a token was made for the same request. Stable within one build of
/// the service; a token from another build may be answered with a reset, never with wrong data.
#[must_use]
pub fn digest(request: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    request.hash(&mut hasher);
    hasher.finish()
}

/// The namespace of a lease token, for routing.
pub fn lease_namespace(token: &[u8]) -> Result<NamespaceId, Error> {
    LeaseToken::decode(token).map(|token| token.namespace)
}

/// `namespaces/default` where nothing is said.
pub fn namespace_or_default(field: &'static str, name: &str) -> Result<NamespaceId, Error> {
    if name.is_empty() {
        return Ok(NamespaceId::trusted("default"));
    }
    parse_namespace(field, name)
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_survive_their_bytes() {
        for filter in [None, Some(7)] {
            let token = ResumeToken {
                epoch: Uid(9),
                revision: Revision(77),
                filter,
            };
            assert_eq!(ResumeToken::decode(&token.encode()).unwrap(), token);
        }
        let lease = LeaseToken {
            namespace: NamespaceId::trusted("default"),
            task: TaskId::trusted("t"),
            fence: 3,
            secret: u64::MAX,
        };
        assert_eq!(LeaseToken::decode(&lease.encode()).unwrap(), lease);
        let page = PageToken {
            filter: 5,
            first_page: Revision(6),
            after: "é/x".into(),
        };
        assert_eq!(PageToken::decode(&page.encode(), 5).unwrap(), page);
        assert_eq!(
            PageToken::decode(&page.encode(), 6).unwrap_err().reason,
            Reason::PageTokenMismatch
        );
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_refused_and_never_panic(bytes: Vec<u8>, text: String) {
            if let Ok(token) = ResumeToken::decode(&bytes) {
                prop_assert_eq!(&token.encode()[..], &bytes[..]);
            }
            if let Ok(token) = LeaseToken::decode(&bytes) {
                prop_assert_eq!(&token.encode()[..], &bytes[..]);
            }
            let _ = PageToken::decode(&text, 0);
        }
    }
}
