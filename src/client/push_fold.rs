//! What was flushed and has no number yet: one operation list per key, folded as it grows.
//!
//! Folding keeps meaning. A put or delete replaces what stood before it; an operation on a value
//! that is known here is carried out here; sums of integers become one sum. What cannot be folded
//! bit for bit, such as sums of floating-point numbers, stays a list, in order. (Sums near the
//! 64-bit limit are the one difference: the server may reject the folded sum where it would have
//! taken one of the two.)

use std::collections::BTreeMap;

use super::update::{Op, Operand, Scalar, Update};
use crate::proto::v1::KeyUpdate;

/// Bytes that a key update weighs besides its key and value: tags and lengths.
const ENVELOPE: usize = 16;

/// Flushed updates without a number.
#[derive(Debug, Default)]
pub(super) struct Pending {
    keys: BTreeMap<String, Vec<Op>>,
    operations: usize,
    squeezed: usize,
    weight: usize,
    flushes: usize,
}

/// Updates that go into one batch, and what they weigh.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) updates: Vec<KeyUpdate>,
    pub(super) weight: usize,
}

pub(super) fn weight_of(key: &str, operation: &Op) -> usize {
    key.len() + operation.weight() + ENVELOPE
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.flushes == 0
    }

    /// How many flushes are in it.
    pub(super) fn flushes(&self) -> usize {
        self.flushes
    }

    /// What it weighs on the wire, at most.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Takes in what came later and was folded elsewhere.
    pub(super) fn merge(&mut self, mut later: Self) {
        let flushes = self.flushes + later.flushes;
        if flushes == later.flushes {
            *self = later;
        } else {
            self.fold_in(later.take_updates());
            self.flushes = flushes;
        }
    }

    /// Takes one flush in.
    pub(super) fn fold_in(&mut self, updates: impl IntoIterator<Item = Update>) {
        self.flushes += 1;
        for Update { key, operation } in updates {
            self.fold_one(key, operation);
        }
    }

    fn fold_one(&mut self, key: String, operation: Op) {
        let added = weight_of(&key, &operation);
        let Some(list) = self.keys.get_mut(&key) else {
            self.keys.insert(key, vec![operation]);
            self.operations += 1;
            self.weight += added;
            return;
        };
        if replaces(&operation) {
            self.operations -= list.len();
            self.weight -= list.iter().map(|old| weight_of(&key, old)).sum::<usize>();
            list.clear();
        }
        match list.last_mut() {
            Some(last) => match fold(last, &operation) {
                Some(folded) => {
                    self.weight -= weight_of(&key, last);
                    self.weight += weight_of(&key, &folded);
                    *last = folded;
                }
                None => {
                    list.push(operation);
                    self.operations += 1;
                    self.weight += added;
                }
            },
            None => {
                list.push(operation);
                self.operations += 1;
                self.weight += added;
            }
        }
    }

    /// Gives up the order of floating-point sums (and with it their last bits) to bound the memory
    /// of a long disconnection. Costs a pass, so it waits until the lists have doubled.
    pub(super) fn squeeze(&mut self) {
        if self.operations <= 2 * self.squeezed.max(self.keys.len()) {
            return;
        }
        for (key, list) in &mut self.keys {
            let before = list.len();
            let mut squeezed: Vec<Op> = Vec::with_capacity(1);
            for operation in list.drain(..) {
                self.weight -= weight_of(key, &operation);
                match squeezed
                    .last_mut()
                    .and_then(|last| sum(last, &operation).map(|sum| (last, sum)))
                {
                    Some((last, sum)) => *last = sum,
                    None => squeezed.push(operation),
                }
            }
            self.weight += squeezed
                .iter()
                .map(|operation| weight_of(key, operation))
                .sum::<usize>();
            self.operations -= before - squeezed.len();
            *list = squeezed;
        }
        self.squeezed = self.operations;
    }

    /// Takes everything out as the updates of one flush.
    pub(super) fn take_updates(&mut self) -> Vec<Update> {
        let lists = std::mem::take(self).keys.into_iter();
        lists
            .flat_map(|(key, list)| {
                list.into_iter().map(move |operation| Update {
                    key: key.clone(),
                    operation,
                })
            })
            .collect()
    }

    /// Takes everything out, cut so that no chunk weighs more than `limit` unless one operation
    /// alone does. A flush of no updates is one empty chunk.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Chunk> {
        let taken = std::mem::take(self);
        if taken.is_empty() {
            return Vec::new();
        }
        let mut chunks = vec![Chunk::default()];
        for (key, list) in taken.keys {
            for operation in list {
                let weight = weight_of(&key, &operation);
                let last = chunks
                    .last()
                    .expect("chunks starts with one and only grows");
                if !last.updates.is_empty() && last.weight + weight > limit {
                    chunks.push(Chunk::default());
                }
                let last = chunks
                    .last_mut()
                    .expect("chunks starts with one and only grows");
                last.weight += weight;
                last.updates.push(operation.into_wire(key.clone()));
            }
        }
        chunks
    }
}

/// What a key is after `operation`, as far as its writer can know. A deleted key is not remembered:
/// a program that makes and deletes keys for ever must not fill its memory with their names.
pub(super) fn own_write(known: Option<&Op>, operation: &Op) -> Option<Op> {
    match operation {
        Op::Put(_) => Some(operation.clone()),
        Op::Delete => None,
        Op::Add(_) | Op::Max(_) | Op::Min(_) => fold(known?, operation),
    }
}

/// Whether nothing that stood before it matters: a put of what is a value is never rejected. (The
/// queue lets nothing else through.)
fn replaces(operation: &Op) -> bool {
    match operation {
        Op::Delete => true,
        Op::Put(operand) => operand.scalar != Scalar::Invalid,
        Op::Add(_) | Op::Max(_) | Op::Min(_) => false,
    }
}

/// The one operation that does what `first` and then `next` do, if there is one.
fn fold(first: &Op, next: &Op) -> Option<Op> {
    let put = |scalar| Some(Op::Put(operand(scalar)));
    match (first, next) {
        (Op::Put(a), Op::Add(b)) => put(added(a.scalar, b.scalar)?),
        (Op::Put(a), Op::Max(b)) => put(larger(a.scalar, b.scalar)?),
        (Op::Put(a), Op::Min(b)) => put(smaller(a.scalar, b.scalar)?),
        (Op::Delete, Op::Add(b) | Op::Max(b) | Op::Min(b)) => match b.scalar {
            Scalar::Integer(_) => put(b.scalar),
            Scalar::Number(_) | Scalar::Other | Scalar::Invalid => None,
        },
        (Op::Add(a), Op::Add(b)) => match (a.scalar, b.scalar) {
            (Scalar::Integer(a), Scalar::Integer(b)) => {
                Some(Op::Add(operand(Scalar::Integer(a.checked_add(b)?))))
            }
            _ => None,
        },
        (Op::Max(a), Op::Max(b)) => Some(Op::Max(operand(larger(a.scalar, b.scalar)?))),
        (Op::Min(a), Op::Min(b)) => Some(Op::Min(operand(smaller(a.scalar, b.scalar)?))),
        _ => None,
    }
}

/// The sum of two additions of numbers, in another order than the server would add them.
fn sum(first: &Op, next: &Op) -> Option<Op> {
    match (first, next) {
        (Op::Add(a), Op::Add(b)) => Some(Op::Add(operand(added(a.scalar, b.scalar)?))),
        _ => None,
    }
}

fn operand(scalar: Scalar) -> Operand {
    match scalar {
        Scalar::Integer(integer) => Operand::new(&integer.into()),
        Scalar::Number(number) => Operand::new(&number.into()),
        Scalar::Other | Scalar::Invalid => unreachable!("only integers and numbers are folded"),
    }
}

fn added(a: Scalar, b: Scalar) -> Option<Scalar> {
    match (a, b) {
        (Scalar::Integer(a), Scalar::Integer(b)) => a.checked_add(b).map(Scalar::Integer),
        (Scalar::Number(a), Scalar::Number(b)) => {
            // The server's own rule: what it would reject stays a list.
            let sum = a + b;
            let overflows = sum.is_infinite() && a.is_finite() && b.is_finite();
            (!overflows && !sum.is_nan()).then_some(Scalar::Number(sum))
        }
        _ => None,
    }
}

fn larger(a: Scalar, b: Scalar) -> Option<Scalar> {
    match (a, b) {
        (Scalar::Integer(a), Scalar::Integer(b)) => Some(Scalar::Integer(a.max(b))),
        // Of equal numbers, such as zeros of two signs, the server keeps what it has.
        (Scalar::Number(x), Scalar::Number(y)) if x < y => Some(b),
        (Scalar::Number(x), Scalar::Number(y)) if x >= y => Some(a),
        _ => None,
    }
}

fn smaller(a: Scalar, b: Scalar) -> Option<Scalar> {
    match (a, b) {
        (Scalar::Integer(a), Scalar::Integer(b)) => Some(Scalar::Integer(a.min(b))),
        (Scalar::Number(x), Scalar::Number(y)) if x <= y => Some(a),
        (Scalar::Number(x), Scalar::Number(y)) if x > y => Some(b),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(updates: impl IntoIterator<Item = Update>) -> Vec<KeyUpdate> {
        let mut pending = Pending::default();
        for update in updates {
            pending.fold_in([update]);
        }
        pending
            .take(usize::MAX)
            .into_iter()
            .flat_map(|chunk| chunk.updates)
            .collect()
    }

    #[test]
    fn a_put_or_delete_replaces_what_stood_before_it() {
        let updates = [
            Update::put("k", 1),
            Update::add("k", 0.5),
            Update::put("k", "end"),
        ];
        assert_eq!(folded(updates), [Update::put("k", "end").into_wire()]);
        let updates = [Update::put("k", 1), Update::delete("k")];
        assert_eq!(folded(updates), [Update::delete("k").into_wire()]);
    }

    #[test]
    fn integers_add_up_and_an_overflow_stays_a_list() {
        let updates = [Update::put("k", 40), Update::add("k", 2)];
        assert_eq!(folded(updates), [Update::put("k", 42).into_wire()]);
        let updates = [Update::add("k", 40), Update::add("k", 2)];
        assert_eq!(folded(updates), [Update::add("k", 42).into_wire()]);
        let updates = [Update::add("k", i64::MAX), Update::add("k", 1)];
        assert_eq!(folded(updates).len(), 2);
    }

    #[test]
    fn sums_of_numbers_stay_in_order_until_they_are_squeezed() {
        let mut pending = Pending::default();
        for _ in 0..10 {
            pending.fold_in([Update::add("k", 0.5)]);
        }
        let before = pending.weight();
        pending.squeeze();
        assert!(pending.weight() < before);
        let chunks = pending.take(usize::MAX);
        assert_eq!(chunks[0].updates, [Update::add("k", 5.0).into_wire()]);
    }

    #[test]
    fn a_number_that_is_none_does_not_hide_the_one_before_it() {
        let updates = [Update::put("k", 1.0), Update::put("k", f64::NAN)];
        assert_eq!(folded(updates).len(), 2);
    }

    #[test]
    fn what_is_written_again_and_again_stays_one_update() {
        let again = |update: Update| folded(vec![update; 100]);
        for update in [
            Update::put("k", f64::INFINITY),
            Update::max("k", 0.5),
            Update::min("k", 0.5),
            Update::max("k", f64::INFINITY),
            Update::min("k", -0.0),
        ] {
            assert_eq!(again(update.clone()), [update.into_wire()]);
        }
        let updates = [Update::put("k", f64::NEG_INFINITY), Update::add("k", 1.0)];
        let put = Update::put("k", f64::NEG_INFINITY).into_wire();
        assert_eq!(folded(updates), [put]);
    }

    #[test]
    fn of_equal_numbers_the_first_stays() {
        let updates = [Update::max("k", -0.0), Update::max("k", 0.0)];
        assert_eq!(folded(updates), [Update::max("k", -0.0).into_wire()]);
        let updates = [Update::min("k", 0.0), Update::min("k", -0.0)];
        assert_eq!(folded(updates), [Update::min("k", 0.0).into_wire()]);
    }

    #[test]
    fn chunks_keep_to_the_limit_and_the_weight_follows_what_is_held() {
        let mut pending = Pending::default();
        let text = "x".repeat(100);
        pending.fold_in((0..10).map(|index| Update::put(format!("k{index}"), text.as_str())));
        pending.fold_in([Update::put("k0", "short")]);
        let weight = pending.weight();
        let chunks = pending.take(300);
        assert!(chunks.iter().all(|chunk| chunk.weight <= 300), "{chunks:?}");
        assert_eq!(
            chunks.iter().map(|chunk| chunk.weight).sum::<usize>(),
            weight
        );
        assert_eq!(
            chunks
                .iter()
                .map(|chunk| chunk.updates.len())
                .sum::<usize>(),
            10
        );
        assert_eq!(pending.weight(), 0);
    }
}
