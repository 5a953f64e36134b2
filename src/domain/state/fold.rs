//! Folding consecutive batches of one writer into the operations of a part.
//!
//! The folding law: applying the folded operations equals applying the batches one after the
//! other, bit for bit, refused keys included. So only that folds whose outcome is known without
//! the state: `put` and `delete` never fail, hence the later one replaces the earlier; `add`,
//! `max` and `min` on top of one compute a `put`, unless they fail. Everything else stays a list:
//! whether `add` overflows depends on what the key holds, and sums of doubles depend on their
//! order. Across writers nothing folds, or a part could not be skipped alone.
//!
//! This is where a pushed key costs the server most, so it allocates for none: keys are interned
//! for the life of the writer's stream, values are copied into one buffer, and a later value takes
//! the place of the earlier where it fits. Only what is left at the end gets memory of its own.

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    arithmetic::{Reduced, reduce_ref},
    batch::OpRef,
    delta::{KeyOp, Op},
    large::LargePut,
    mirror::Key,
};

/// Keys remembered from one part to the next, and their bytes; a writer of more begins anew each
/// time. Open streams are many, and most write a handful.
const MAX_INTERNED: usize = 4_096;
const MAX_INTERNED_BYTES: usize = 128 << 10;
/// Room for values kept from one part to the next.
const KEPT_BYTES: usize = 64 << 10;

/// Folds the batches of one writer as they come.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    keys: Vec<Interned>,
    /// Bytes of the keys.
    key_bytes: usize,
    places: HashMap<Key, u32>,
    /// The key folded last: what followed it last time is likely to follow it again.
    before: u32,
    ops: Vec<Slot>,
    values: Vec<u8>,
    /// Large values, each in memory of its own; a slot holds the place. Replaced ones are let go of.
    large: Vec<LargePut>,
}

#[derive(Clone, Debug)]
struct Interned {
    key: Key,
    /// Its last operation, plus 1; 0: none.
    last: u32,
    /// The key that came after it.
    next: u32,
}

/// An operation that is left.
#[derive(Clone, Copy, Debug)]
struct Slot {
    key: u32,
    kind: Kind,
    sequence: u64,
    /// Where its value or operand stands in `values`, and the room it has there. Of a large value
    /// `length` is the place in `large`.
    start: usize,
    length: usize,
    room: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    PutLarge,
    Delete,
    Add,
    Max,
    Min,
}

impl Folder {
    /// Nothing folded yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Folds in an admitted operation of batch `sequence`; batches come in order.
    #[inline]
    pub fn push(&mut self, sequence: u64, key: &str, op: OpRef<'_>) {
        let key = self.intern(key);
        let last = self.keys[key as usize].last;
        if last > 0 && self.replace(last as usize - 1, sequence, op) {
            return;
        }
        let (kind, value) = parts(op);
        let start = self.values.len();
        self.values.extend_from_slice(value);
        let mut slot = Slot {
            key,
            kind,
            sequence,
            start,
            length: value.len(),
            room: value.len(),
        };
        if let OpRef::PutLarge(put) = op {
            slot.length = self.large.len();
            self.large.push(put.clone());
        }
        self.ops.push(slot);
        // A window holds fewer operations than bytes, and far fewer than 2^32 of those.
        self.keys[key as usize].last = self.ops.len() as u32;
    }

    /// The place of a key in `keys`. A writer mostly writes the same keys in the same order, so
    /// comparing with the one that came next last time is nearly always enough.
    #[inline]
    fn intern(&mut self, key: &str) -> u32 {
        if let Some(before) = self.keys.get(self.before as usize) {
            let guess = before.next;
            if &*self.keys[guess as usize].key == key {
                self.before = guess;
                return guess;
            }
        }
        self.look_up(key)
    }

    fn look_up(&mut self, key: &str) -> u32 {
        let place = match self.places.get(key) {
            Some(place) => *place,
            None => {
                let place = self.keys.len() as u32;
                let key = Key::from(key);
                self.key_bytes += key.len();
                self.keys.push(Interned {
                    key: key.clone(),
                    last: 0,
                    next: place,
                });
                self.places.insert(key, place);
                place
            }
        };
        self.keys[self.before as usize].next = place;
        self.before = place;
        place
    }

    /// Folds an operation onto the last one of its key; false: both must stay.
    #[inline]
    fn replace(&mut self, place: usize, sequence: u64, op: OpRef<'_>) -> bool {
        let earlier = self.ops[place];
        let current = match earlier.kind {
            Kind::Put => Some(&self.values[earlier.start..earlier.start + earlier.length]),
            Kind::Delete => None,
            // Never a number: what reduces it is refused, by the state and in its turn.
            Kind::PutLarge if !op.is_put_or_delete() => return false,
            Kind::PutLarge => None,
            Kind::Add | Kind::Max | Kind::Min => return false,
        };
        match op {
            OpRef::Put(_) | OpRef::Delete(_) => self.set(place, parts(op)),
            OpRef::PutLarge(put) => self.set_large(place, put),
            reducing => match reduce_ref(reducing, current) {
                Ok(Reduced::Unchanged) => {}
                Ok(Reduced::Set(value)) => self.set(place, (Kind::Put, &value)),
                Err(_) => return false,
            },
        }
        self.ops[place].sequence = sequence;
        true
    }

    #[inline]
    fn set(&mut self, place: usize, (kind, value): (Kind, &[u8])) {
        let slot = &mut self.ops[place];
        if slot.kind == Kind::PutLarge {
            self.large[slot.length] = LargePut::default();
        }
        if value.len() > slot.room {
            // The old room stays unused. All of it was counted against the writer's window, so
            // the buffer is no larger than that.
            slot.start = self.values.len();
            slot.room = value.len();
            self.values.extend_from_slice(value);
        } else {
            self.values[slot.start..slot.start + value.len()].copy_from_slice(value);
        }
        slot.kind = kind;
        slot.length = value.len();
    }

    fn set_large(&mut self, place: usize, put: &LargePut) {
        let slot = &mut self.ops[place];
        if slot.kind == Kind::PutLarge {
            self.large[slot.length] = put.clone();
            return;
        }
        slot.kind = Kind::PutLarge;
        slot.length = self.large.len();
        self.large.push(put.clone());
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

    /// The operations of the part; the next begins empty. They stand in the order in which their
    /// keys first came.
    #[must_use]
    pub fn take(&mut self) -> Vec<KeyOp> {
        let values = Bytes::copy_from_slice(&self.values);
        let slots = std::mem::take(&mut self.ops);
        let ops = slots.iter().map(|slot| {
            let interned = &mut self.keys[slot.key as usize];
            interned.last = 0;
            let op = if slot.kind == Kind::PutLarge {
                let put = std::mem::take(&mut self.large[slot.length]);
                Op::PutLarge(Box::new(put))
            } else {
                stored(
                    slot.kind,
                    values.slice(slot.start..slot.start + slot.length),
                )
            };
            KeyOp {
                key: interned.key.to_string(),
                sequence: slot.sequence,
                op: Some(op),
            }
        });
        let ops = ops.collect();
        self.ops = slots;
        self.clear();
        ops
    }

    /// Forgets what was folded.
    pub fn clear(&mut self) {
        for slot in self.ops.drain(..) {
            self.keys[slot.key as usize].last = 0;
        }
        self.ops.shrink_to(MAX_INTERNED);
        self.large = Vec::new();
        self.values.clear();
        self.values.shrink_to(KEPT_BYTES);
        if self.keys.len() > MAX_INTERNED || self.key_bytes > MAX_INTERNED_BYTES {
            self.keys = Vec::new();
            self.key_bytes = 0;
            self.places = HashMap::new();
            self.before = 0;
        }
    }
}

#[inline]
fn parts(op: OpRef<'_>) -> (Kind, &[u8]) {
    match op {
        OpRef::Put(value) => (Kind::Put, value),
        OpRef::PutLarge(_) => (Kind::PutLarge, &[]),
        OpRef::Delete(_) => (Kind::Delete, &[]),
        OpRef::Add(operand) => (Kind::Add, operand),
        OpRef::Max(operand) => (Kind::Max, operand),
        OpRef::Min(operand) => (Kind::Min, operand),
    }
}

fn stored(kind: Kind, value: Bytes) -> Op {
    match kind {
        // A large one is taken before.
        Kind::Put | Kind::PutLarge => Op::Put(value),
        Kind::Delete => Op::Delete(true),
        Kind::Add => Op::Add(value),
        Kind::Max => Op::Max(value),
        Kind::Min => Op::Min(value),
    }
}

#[cfg(test)]
mod tests;
