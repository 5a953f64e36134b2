//! `GetState`: the entries asked for, as of one revision, with their large values.
//!
//! The mirror only refers to large values, and reading one back may take a disk. So the mirror is
//! let go of first; what was cut there is then completed. A value never changes, so the answer is
//! still that cut, unless a value was replaced and its entry deleted meanwhile: then all is read
//! again.

use bytes::Bytes;
use prost::Message;

use super::{convert, position};
use crate::{
    domain::{
        Error, Reason, Revision, StateId,
        limits::MAX_MESSAGE_BYTES,
        state::{Key, LargeRef, State, StateValue, Stored},
    },
    engine::Namespace,
    proto::v1 as pb,
};

/// How often all is read again before the caller is told to try later. A replaced value stays
/// readable until megabytes of them are, so that once is rare.
const READINGS: usize = 8;
/// What a value's tag and length take in the answer, and what lengths around it grow by.
const VALUE_OVERHEAD: usize = 16;

/// An entry, and where its large value is.
type Cut = (pb::StateEntry, Option<(Revision, usize)>);

/// Reads a state, or some of its keys.
pub(super) async fn read(
    namespace: &Namespace,
    id: &StateId,
    keys: &[String],
    limit: Option<usize>,
) -> Result<pb::GetStateResponse, Error> {
    for _ in 0..READINGS {
        let (shared, mut cut, at) = namespace.read_state(id, |slot, head| {
            let shared = convert::shared_state(namespace.id(), &slot.state);
            (shared, entries(&slot.state, keys, limit), head)
        })?;
        cut.sort_unstable_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        let (entries, large): (Vec<_>, Vec<_>) = cut.into_iter().unzip();
        let mut response = pb::GetStateResponse {
            state: Some(pb::SharedState { entries, ..shared }),
            position: Some(position(namespace, at)),
        };
        // Before anything is read back.
        fits(&response, &large)?;
        if complete(namespace, &mut response, &large).await? {
            return Ok(response);
        }
    }
    Err(Error::new(
        Reason::NotReady,
        format!(
            "large values of state {id} were replaced {READINGS} times while they were read: retry, or ask for fewer keys"
        ),
    )
    .with("state", id))
}

/// Fetches large values into their entries; false where one is gone.
async fn complete(
    namespace: &Namespace,
    response: &mut pb::GetStateResponse,
    large: &[Option<(Revision, usize)>],
) -> Result<bool, Error> {
    let entries = response.state.iter_mut().flat_map(|s| &mut s.entries);
    for (entry, large) in entries.zip(large) {
        let Some((at, _)) = large else { continue };
        match namespace.large_value(*at).await? {
            Some(value) => entry.value = value,
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// The entries asked for, in no order yet: the mirror is held while they are collected.
fn entries(state: &State, keys: &[String], limit: Option<usize>) -> Vec<Cut> {
    let table = state.table();
    if keys.is_empty() {
        let all = table.iter();
        return all
            .map(|(key, revision, value): (&Key, _, _)| entry(key, revision, value, limit))
            .collect();
    }
    let mut wanted: Vec<&str> = keys.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let found = wanted.into_iter().filter_map(|key| {
        let value = table.get(key)?;
        let revision = table.row(key)?.revision;
        Some(entry(key, revision, value, limit))
    });
    found.collect()
}

fn entry(key: &str, revision: Revision, value: &StateValue, limit: Option<usize>) -> Cut {
    let wanted = limit.is_none_or(|limit| value.value.size() <= limit);
    let (inline, large) = match &value.value {
        Stored::Inline(inline) if wanted => (inline.clone(), None),
        Stored::Large(large) if wanted => (Bytes::new(), Some(place(large))),
        _ => (Bytes::new(), None),
    };
    let entry = pb::StateEntry {
        key: key.to_owned(),
        value: inline,
        mod_revision: revision.wire(),
        source: value.source.to_string(),
        stub: (!wanted).then(|| convert::stub(value)),
    };
    (entry, large)
}

fn place(large: &LargeRef) -> (Revision, usize) {
    (large.at(), large.size())
}

fn fits(response: &pb::GetStateResponse, large: &[Option<(Revision, usize)>]) -> Result<(), Error> {
    let large = large.iter().flatten();
    let large: usize = large.map(|(_, size)| size + VALUE_OVERHEAD).sum();
    let size = response.encoded_len() + large;
    if size <= MAX_MESSAGE_BYTES {
        return Ok(());
    }
    Err(Error::new(
        Reason::ValueTooLarge,
        format!(
            "the answer has {size} bytes, {MAX_MESSAGE_BYTES} are the limit: ask for fewer keys or set inline_limit_bytes"
        ),
    )
    .with("size", size)
    .with("limit", MAX_MESSAGE_BYTES))
}
