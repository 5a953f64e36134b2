//! What is refused on arrival: decided once, stored with the part, and so the same on every
//! replica and in every replay.
//!
//! A refused key never refuses its batch: the sequence moves on, so a bad key cannot wedge a
//! writer.

use std::collections::HashMap;

use crate::domain::{
    Reason,
    limits::{MAX_KEY_BYTES, MAX_KEYS_PER_STATE},
};

use super::{
    batch::{OpRef, UpdateRef},
    delta::{KeyOp, Op, RejectedOp},
    mirror::{Key, KeyTable, State},
    number::Number,
    value::check_value,
};

/// A batch, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admitted {
    /// What may go into a part, in order.
    pub ops: Vec<KeyOp>,
    /// What may not.
    pub rejected: Vec<RejectedOp>,
}

/// Checks keys and values of one batch. It needs no state, so it runs where the batch arrives and
/// not in the monitor; [`KeyBudget::limit`] is for the monitor.
#[must_use]
pub fn admit(mut ops: Vec<KeyOp>) -> Admitted {
    let mut rejected = Vec::new();
    ops.retain(|op| match admit_update(UpdateRef::from(op)) {
        Ok(_) => true,
        Err(reason) => {
            rejected.push(rejection(op.sequence, op.key.as_bytes(), reason));
            false
        }
    });
    ops.iter_mut().for_each(KeyOp::set_apart);
    Admitted { ops, rejected }
}

/// Checks one update where it came in: its key and what to do with it.
#[inline]
pub fn admit_update(update: UpdateRef<'_>) -> Result<(&str, OpRef<'_>), Reason> {
    if !(1..=MAX_KEY_BYTES).contains(&update.key.len()) {
        return Err(Reason::KeyInvalid);
    }
    let key = std::str::from_utf8(update.key).map_err(|_| Reason::KeyInvalid)?;
    match update.op {
        // Nothing anybody meant.
        None | Some(OpRef::Delete(false)) => Err(Reason::ValueInvalid),
        // Made here and never sent.
        Some(OpRef::PutLarge(_)) => Err(Reason::ValueInvalid),
        Some(op) => {
            match op {
                OpRef::Delete(_) | OpRef::PutLarge(_) => {}
                OpRef::Put(value) => _ = check_value(value)?,
                OpRef::Add(operand) | OpRef::Max(operand) | OpRef::Min(operand) => {
                    check_value(operand)?;
                    Number::decode(operand).ok_or(Reason::ValueInvalid)?;
                }
            }
            Ok((key, op))
        }
    }
}

/// Says that a key of a batch was refused.
#[must_use]
pub fn rejection(sequence: u64, key: &[u8], reason: Reason) -> RejectedOp {
    // A key may be as long as a message; its start is enough to find the mistake.
    let start = &key[..key.len().min(MAX_KEY_BYTES)];
    let key = match std::str::from_utf8(start) {
        Ok(key) => key.into(),
        // The cut went through a character.
        Err(error) if error.error_len().is_none() => {
            String::from_utf8_lossy(&start[..error.valid_up_to()])
        }
        Err(_) => String::from_utf8_lossy(start),
    };
    RejectedOp {
        sequence,
        key: key.into_owned(),
        reason: reason.as_str().to_owned(),
    }
}

/// Keeps a state within [`MAX_KEYS_PER_STATE`], for all batches that one delta takes in.
///
/// It assumes that they are all applied. A part that is skipped in the fold instead (fenced, say)
/// may leave a few keys more or less; the bound is there to keep snapshots small, not exact.
#[derive(Debug)]
pub struct KeyBudget<'a> {
    keys: &'a KeyTable,
    count: usize,
    /// Keys that came or went in this delta; `None` where the bound is out of reach anyway.
    moved: Option<HashMap<Key, bool>>,
}

impl<'a> KeyBudget<'a> {
    /// For a delta of at most `incoming` operations. Where they cannot reach the bound even if
    /// each brought a new key, which is nearly always, nothing is looked up.
    #[must_use]
    pub fn new(state: &'a State, incoming: usize) -> Self {
        let count = state.key_count();
        let reachable = count.saturating_add(incoming) > MAX_KEYS_PER_STATE;
        Self {
            keys: state.table(),
            count,
            moved: reachable.then(HashMap::new),
        }
    }

    /// Moves what would make one key too many from `ops` to `rejected`. Deletions make room.
    pub fn limit(&mut self, batch: &mut Admitted) {
        let Some(moved) = &mut self.moved else {
            return;
        };
        let (keys, count) = (self.keys, &mut self.count);
        batch.ops.retain(|op| {
            let key = op.key.as_str();
            let held = moved.get(key).copied();
            let held = held.unwrap_or_else(|| keys.get(key).is_some());
            let deletes = matches!(op.op, Some(Op::Delete(_)));
            if held != deletes {
                return true;
            }
            if deletes {
                *count -= 1;
            } else if *count >= MAX_KEYS_PER_STATE {
                let refused = rejection(op.sequence, key.as_bytes(), Reason::TooManyKeys);
                batch.rejected.push(refused);
                return false;
            } else {
                *count += 1;
            }
            moved.insert(key.into(), !deletes);
            true
        });
    }
}

#[cfg(test)]
mod tests;
