use proptest::prelude::*;

use super::{
    super::fixtures::{integer, large, number, op, ops, put, stream, text},
    *,
};
use crate::domain::{
    Revision, StateId, Uid,
    state::{LargeValue, PartResult, State, StateDelta},
};

fn fold(batches: &[Vec<KeyOp>]) -> Vec<KeyOp> {
    let mut folder = Folder::new();
    for batch in batches {
        for op in batch {
            let update = OpRef::from(op.op.as_ref().unwrap());
            folder.push(op.sequence, &op.key, update);
        }
    }
    let most = batches.iter().map(Vec::len).sum();
    assert!(folder.len() <= most);
    folder.take()
}

#[test]
fn a_thousand_puts_of_a_key_fold_to_the_last() {
    let batches: Vec<_> = (1..=1000)
        .map(|sequence| vec![put(sequence, "progress", sequence.cast_signed())])
        .collect();
    assert_eq!(fold(&batches), [put(1000, "progress", 1000)]);
}

#[test]
fn arithmetic_folds_onto_a_known_value_only() {
    let add = |value| op(2, "k", Op::Add(value));
    assert_eq!(
        fold(&[vec![put(1, "k", 1)], vec![add(integer(2))]]),
        [put(2, "k", 3)]
    );
    let deleted = op(1, "k", Op::Delete(true));
    assert_eq!(
        fold(&[vec![deleted], vec![add(integer(2))]]),
        [put(2, "k", 2)]
    );
    for list in [
        vec![add(integer(1)), add(integer(1))],
        vec![add(number(0.1)), add(number(0.2))],
        vec![
            op(1, "k", Op::Put(text("t"))),
            add(integer(1)),
            put(3, "k", 1),
        ],
        vec![put(1, "k", i64::MAX), add(integer(1))],
    ] {
        assert_eq!(fold(std::slice::from_ref(&list)), list);
    }
}

fn numbered(batches: Vec<Vec<KeyOp>>) -> Vec<Vec<KeyOp>> {
    let mut batches = batches;
    for (sequence, batch) in (2..).zip(&mut batches) {
        for op in batch {
            op.sequence = sequence;
        }
    }
    batches
}

/// Applies `base`, then the parts, all in one revision: what folds is never told apart by it.
fn applied(
    base: &[KeyOp],
    parts: Vec<super::super::Part>,
) -> (State, Vec<(u64, String, String)>, bool) {
    let mut state = State::new(StateId::trusted("s"));
    let delta = |parts| StateDelta {
        parts,
        ..StateDelta::default()
    };
    // As planning does: what a delta names, and nothing else, stands before it.
    note_values(&mut state, base);
    state.apply_delta(Revision(1), &delta(vec![stream(1, 1, 1, base.to_vec())]));
    parts
        .iter()
        .for_each(|part| note_values(&mut state, &part.ops));
    let result = state.apply_delta(Revision(2), &delta(parts));
    let rejected = result.parts.into_iter().flat_map(|part| match part {
        PartResult::Applied { rejected } => rejected,
        skipped => panic!("{skipped:?}"),
    });
    let rejected = rejected.map(|r| (r.sequence, r.key, r.reason)).collect();
    (state, rejected, result.changed)
}

fn note_values(state: &mut State, ops: &[KeyOp]) {
    for op in ops {
        if let Some(Op::PutLarge(put)) = &op.op {
            let uid = Uid::from_bytes(&put.uid).unwrap();
            let value = LargeValue {
                uid: put.uid.clone(),
                ..LargeValue::default()
            };
            state.apply_value(Revision(uid.0 as u64), &value);
        }
    }
}

fn law(base: &[KeyOp], batches: Vec<Vec<KeyOp>>) -> Result<(), TestCaseError> {
    let batches = numbered(batches);
    let last = 1 + batches.len() as u64;
    let one_by_one = (2..)
        .zip(&batches)
        .map(|(sequence, batch)| stream(1, sequence, sequence, batch.clone()))
        .collect();
    let folded = vec![stream(1, 2, last, fold(&batches))];
    prop_assert_eq!(applied(base, folded), applied(base, one_by_one));
    Ok(())
}

#[test]
fn large_values_that_are_replaced_are_let_go_of() {
    let large = |number: u8| LargePut::of(&large(number)).unwrap();
    let mut folder = Folder::new();
    for number in 0..100 {
        folder.push(1, "k", OpRef::PutLarge(&large(number)));
    }
    let held = |folder: &Folder| {
        folder
            .large
            .iter()
            .map(|put| put.value.len())
            .sum::<usize>()
    };
    assert_eq!(held(&folder), large(0).size());
    folder.push(2, "k", OpRef::Put(&integer(1)));
    assert_eq!(held(&folder), 0);
    folder.push(3, "k", OpRef::PutLarge(&large(7)));
    folder.push(3, "l", OpRef::PutLarge(&large(8)));
    let put = |key, number| op(3, key, Op::PutLarge(Box::new(large(number))));
    assert_eq!(folder.take(), [put("k", 7), put("l", 8)]);
    folder.push(4, "l", OpRef::PutLarge(&large(9)));
    folder.push(4, "l", OpRef::Delete(true));
    assert_eq!(folder.take(), [op(4, "l", Op::Delete(true))]);
    assert!(folder.large.is_empty());
}

#[test]
fn what_a_part_took_leaves_no_trace_in_the_next() {
    let mut folder = Folder::new();
    let mut part = |values: &[i64]| {
        for value in values {
            let value = integer(*value);
            folder.push(1, "k", OpRef::Put(&value));
            folder.push(1, "l", OpRef::Add(&value));
        }
        folder.take()
    };
    let list = |values: &[i64]| -> Vec<_> {
        let adds = values.iter().map(|v| op(1, "l", Op::Add(integer(*v))));
        let mut list: Vec<_> = adds.collect();
        list.insert(0, put(1, "k", *values.last().unwrap()));
        list
    };
    assert_eq!(part(&[1]), list(&[1]));
    assert_eq!(part(&[2, 3]), list(&[2, 3]));
    assert_eq!(part(&[i64::MAX, 4]), list(&[i64::MAX, 4]));
}

#[test]
fn a_longer_value_finds_room_and_a_shorter_one_leaves_nothing_behind() {
    let values = ["a", "a longer one", "b", "the longest of them all"].map(text);
    let batch: Vec<_> = values
        .iter()
        .map(|v| op(1, "k", Op::Put(v.clone())))
        .collect();
    for count in 1..=values.len() {
        assert_eq!(fold(&[batch[..count].to_vec()]), [batch[count - 1].clone()]);
    }
}

#[test]
fn a_writer_of_ever_new_keys_is_not_remembered_for_ever() {
    let mut folder = Folder::new();
    let value = integer(1);
    for round in 0..3 {
        for key in 0..MAX_INTERNED {
            folder.push(1, &format!("{round} {key}"), OpRef::Put(&value));
        }
        assert_eq!(folder.take().len(), MAX_INTERNED);
        assert!(
            folder.keys.len() <= 2 * MAX_INTERNED,
            "{}",
            folder.keys.len()
        );
    }
    assert!(folder.values.capacity() <= 2 * KEPT_BYTES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn folded_batches_do_what_they_do_one_by_one(
        base in ops(3, 4),
        batches in prop::collection::vec(ops(3, 6), 1..5),
    ) {
        law(&base, batches)?;
    }

    #[test]
    fn many_keys_fold_as_few_do(
        base in ops(30, 30),
        batches in prop::collection::vec(ops(30, 40), 1..5),
    ) {
        law(&base, batches)?;
    }
}
