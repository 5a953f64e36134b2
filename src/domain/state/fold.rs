//! Folding consecutive batches of one writer into the operations of a part.
//!
//! The folding law: applying the folded operations equals applying the batches one after the
//! other, bit for bit, refused keys included. So only that folds whose outcome is known without
//! the state: `put` and `delete` never fail, hence the later one replaces the earlier; `add`,
//! `max` and `min` on top of one compute a `put`, unless they fail. Everything else stays a list:
//! whether `add` overflows depends on what the key holds, and sums of doubles depend on their
//! order. Across writers nothing folds, or a part could not be skipped alone.

use std::collections::HashMap;

use super::{
    arithmetic::{Reduced, reduce},
    delta::{KeyOp, Op},
};

/// Up to here a scan over the operations is quicker than hashing, and allocates nothing. A
/// StateQueue mostly writes a handful of keys over and over.
const SCANNED: usize = 16;

/// Folds the batches of one writer as they come.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    ops: Vec<KeyOp>,
    /// Where each key's last operation stands, once there are too many to scan.
    last: HashMap<Box<str>, usize>,
}

impl Folder {
    /// Nothing folded yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Folds in the operations of the next batch, admitted and in order.
    pub fn push(&mut self, batch: impl IntoIterator<Item = KeyOp>) {
        for op in batch {
            self.push_op(op);
        }
    }

    fn push_op(&mut self, op: KeyOp) {
        let last = self.last_of(&op.key);
        if let Some(last) = last
            && let Some(folded) = folded(&self.ops[last], &op)
        {
            let slot = &mut self.ops[last];
            slot.sequence = op.sequence;
            match folded {
                Folded::Later => slot.op = op.op,
                Folded::Earlier => {}
                Folded::Computed(value) => slot.op = Some(value),
            }
            return;
        }
        if self.ops.len() >= SCANNED {
            self.note(&op.key);
        }
        self.ops.push(op);
    }

    fn last_of(&self, key: &str) -> Option<usize> {
        if self.ops.len() <= SCANNED {
            return self.ops.iter().rposition(|op| op.key == key);
        }
        self.last.get(key).copied()
    }

    /// Notes the place the next operation gets.
    fn note(&mut self, key: &str) {
        if self.last.is_empty() {
            let places = self.ops.iter().enumerate();
            self.last = places
                .map(|(place, op)| (op.key.as_str().into(), place))
                .collect();
        }
        let place = self.ops.len();
        match self.last.get_mut(key) {
            Some(last) => *last = place,
            None => {
                self.last.insert(key.into(), place);
            }
        }
    }

    /// How many operations a part would have now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The operations of the part. Keys stand in the order in which they first came.
    #[must_use]
    pub fn finish(self) -> Vec<KeyOp> {
        self.ops
    }
}

/// What two operations on one key become.
enum Folded {
    Later,
    Earlier,
    Computed(Op),
}

/// Folds an operation onto the last one of its key; `None`: both must stay.
fn folded(earlier: &KeyOp, later: &KeyOp) -> Option<Folded> {
    let current = match earlier.op.as_ref()? {
        Op::Put(value) => Some(&value[..]),
        Op::Delete(_) => None,
        Op::PutLarge(_) => {
            // Never a number: what reduces it is refused, by the state and in its turn.
            return matches!(later.op, Some(Op::Put(_) | Op::Delete(_) | Op::PutLarge(_)))
                .then_some(Folded::Later);
        }
        Op::Add(_) | Op::Max(_) | Op::Min(_) => return None,
    };
    match later.op.as_ref()? {
        Op::Put(_) | Op::Delete(_) | Op::PutLarge(_) => Some(Folded::Later),
        reducing => match reduce(reducing, current).ok()? {
            Reduced::Unchanged => Some(Folded::Earlier),
            Reduced::Set(value) => Some(Folded::Computed(Op::Put(value))),
        },
    }
}

#[cfg(test)]
mod tests;
