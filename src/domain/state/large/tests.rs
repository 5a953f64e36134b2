use super::{
    super::{
        Admitted, Folder, OpRef, PartResult, Prune, State, StateDelta, admit,
        fixtures::{fence, integer, large, op, put, stream},
    },
    *,
};
use crate::domain::{Reason, StateId, limits::MAX_VALUE_BYTES};

fn state() -> State {
    State::new(StateId::trusted("s"))
}

/// One admitted operation.
fn admitted(operation: Op) -> KeyOp {
    let Admitted { mut ops, rejected } = admit(vec![op(1, "k", operation)]);
    assert_eq!(rejected, []);
    ops.pop().unwrap()
}

/// The value out of an operation, as planning takes it.
fn taken(op: &mut KeyOp, uid: u128) -> LargeValue {
    match &mut op.op {
        Some(Op::PutLarge(put)) => put.take_entry("s", Uid(uid)),
        other => panic!("{other:?} is not large"),
    }
}

fn delta(ops: Vec<KeyOp>) -> StateDelta {
    StateDelta {
        state: "s".into(),
        parts: vec![stream(1, 1, 1, ops)],
        ..StateDelta::default()
    }
}

/// A state whose key "k" has a large value at revision 1, set at revision 2.
fn with_large() -> State {
    let mut state = state();
    let mut op = admitted(Op::Put(large(1)));
    state.apply_value(Revision(1), &taken(&mut op, 9));
    let result = state.apply_delta(Revision(2), &delta(vec![op]));
    assert!(result.changed);
    state
}

#[test]
fn only_what_is_above_the_threshold_is_set_apart() {
    // A text's tag and length take four bytes here.
    let text = |length: usize| {
        let mut value = vec![0x2a];
        prost::encoding::encode_varint(length as u64, &mut value);
        value.resize(value.len() + length, b'x');
        Bytes::from(value)
    };
    let most = text(MAX_INLINE_VALUE_BYTES - 4);
    assert_eq!(most.len(), MAX_INLINE_VALUE_BYTES);
    assert_eq!(admitted(Op::Put(most.clone())).op, Some(Op::Put(most)));
    let above = text(MAX_INLINE_VALUE_BYTES - 3);
    let Some(Op::PutLarge(put)) = admitted(Op::Put(above.clone())).op else {
        panic!("it is not large");
    };
    assert_eq!(put.value, above);
    assert_ne!(put.value.as_ptr(), above.as_ptr(), "it pins its message");
    assert_eq!(put.size(), above.len());
    assert_eq!(put.sha256[..], Sha256::digest(&above)[..]);
    assert_eq!(put.content_type, "");
    let refused = admit(vec![op(1, "k", Op::Put(text(MAX_VALUE_BYTES)))]);
    assert_eq!(refused.rejected[0].reason, "VALUE_TOO_LARGE");
}

#[test]
fn a_blob_says_what_it_is() {
    let Some(Op::PutLarge(put)) = admitted(Op::Put(large(5))).op else {
        panic!("it is not large");
    };
    assert_eq!(put.content_type, "image/png");
}

#[test]
fn a_client_cannot_name_an_entry_by_itself() {
    let forged = LargePut {
        uid: Uid(9).to_bytes(),
        ..LargePut::default()
    };
    let refused = admit(vec![op(1, "k", Op::PutLarge(Box::new(forged)))]);
    assert_eq!(refused.ops, []);
    assert_eq!(refused.rejected[0].reason, "VALUE_INVALID");
}

#[test]
fn a_state_holds_a_reference_and_counts_the_bytes() {
    let mut state = with_large();
    let held = state.table().get("k").unwrap().value.clone();
    let reference = held.large().unwrap();
    assert_eq!(reference.at(), Revision(1));
    assert_eq!(reference.sha256[..], Sha256::digest(large(1))[..]);
    assert_eq!(held.inline(), None);
    assert_eq!(state.size_bytes(), 1 + large(1).len());
    assert_eq!(state.large_bytes(), large(1).len());
    assert_eq!(state.large_values().collect::<Vec<_>>(), [Revision(1)]);
    assert!(!state.has_unclaimed());
    let small = StateDelta {
        parts: vec![stream(1, 2, 2, vec![put(2, "k", 1)])],
        ..delta(Vec::new())
    };
    state.apply_delta(Revision(3), &small);
    assert_eq!(state.large_bytes(), 0);
    assert_eq!(state.size_bytes(), 1 + integer(1).len());
    assert_eq!(state.large_values().count(), 0);
}

#[test]
fn arithmetic_on_a_large_value_is_refused_unread() {
    let mut state = with_large();
    for (sequence, kind) in (2..).zip([Op::Add, Op::Max, Op::Min]) {
        let reducing = op(sequence, "k", kind(integer(1)));
        let part = stream(1, sequence, sequence, vec![reducing]);
        let delta = StateDelta {
            parts: vec![part],
            ..delta(Vec::new())
        };
        let result = state.apply_delta(Revision(sequence + 1), &delta);
        let [PartResult::Applied { rejected }] = &result.parts[..] else {
            panic!("{result:?}");
        };
        assert_eq!(rejected[0].reason, "TYPE_MISMATCH");
        assert!(!result.changed);
    }
}

#[test]
fn the_value_of_a_skipped_part_is_dead() {
    let mut state = with_large();
    let mut again = admitted(Op::Put(large(2)));
    state.apply_value(Revision(3), &taken(&mut again, 10));
    // A duplicate by its number.
    let result = state.apply_delta(Revision(4), &delta(vec![again]));
    assert_eq!(result.parts, [PartResult::Duplicate]);
    assert_eq!(state.large_values().collect::<Vec<_>>(), [Revision(1)]);
    assert!(!state.has_unclaimed());

    let mut fenced = admitted(Op::Put(large(3)));
    let raised = stream(2, 1, 0, Vec::new());
    let raised = super::super::Part {
        fence: Some(fence(8, 5)),
        ..raised
    };
    let mut parts = delta(vec![]);
    parts.parts = vec![raised];
    state.apply_delta(Revision(5), &parts);
    state.apply_value(Revision(6), &taken(&mut fenced, 11));
    let mut part = stream(2, 1, 1, vec![fenced]);
    part.fence = Some(fence(8, 4));
    parts.parts = vec![part];
    let result = state.apply_delta(Revision(7), &parts);
    assert_eq!(result.parts, [PartResult::Fenced]);
    assert!(!state.has_unclaimed());
}

#[test]
fn a_delta_without_its_value_rejects_that_key_alone() {
    let mut state = state();
    let mut orphan = admitted(Op::Put(large(1)));
    let _lost = taken(&mut orphan, 9);
    let result = state.apply_delta(Revision(2), &delta(vec![orphan, put(1, "n", 3)]));
    let [PartResult::Applied { rejected }] = &result.parts[..] else {
        panic!("{result:?}");
    };
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].reason, Reason::Internal.as_str());
    assert_eq!(state.key_count(), 1);
}

#[test]
fn of_a_value_appended_twice_the_newest_counts_and_none_stays_unclaimed() {
    let mut state = state();
    let mut op = admitted(Op::Put(large(1)));
    let entry = taken(&mut op, 9);
    state.apply_value(Revision(1), &entry);
    state.apply_value(Revision(2), &entry);
    state.apply_delta(Revision(3), &delta(vec![op]));
    assert_eq!(state.large_values().collect::<Vec<_>>(), [Revision(2)]);
    assert!(!state.has_unclaimed());
}

#[test]
fn what_nobody_claims_is_bounded_and_ends_with_a_snapshot() {
    let mut state = state();
    for number in 0..2 * MAX_UNCLAIMED as u64 {
        let value = LargeValue {
            uid: Uid(number.into()).to_bytes(),
            ..LargeValue::default()
        };
        state.apply_value(Revision(number + 1), &value);
    }
    assert_eq!(state.unclaimed.0.len(), MAX_UNCLAIMED);
    assert_eq!(state.unclaimed.0[0].1, Revision(MAX_UNCLAIMED as u64 + 1));
    let snapshot = state.snapshot(&Prune::NOTHING);
    state.apply_snapshot(Revision(9_999), &snapshot);
    assert!(!state.has_unclaimed());
}

#[test]
fn a_snapshot_carries_references_and_a_deletion_none() {
    let mut folded = with_large();
    let before = folded.clone();
    let snapshot = before.snapshot(&Prune::NOTHING);
    assert_eq!(snapshot.entries[0].value, Bytes::new());
    assert!(prost::Message::encoded_len(&snapshot) < 300);
    folded.apply_snapshot(Revision(3), &snapshot);
    assert_eq!(folded, before);
    assert_eq!(folded.large_bytes(), before.large_bytes());
    // And on a state that knows nothing, as after a compaction.
    let mut fresh = state();
    fresh.apply_snapshot(Revision(3), &snapshot);
    assert_eq!(fresh, before);
    folded.apply_snapshot(Revision(4), &before.deletion(4));
    assert_eq!(
        (folded.large_bytes(), folded.large_values().count()),
        (0, 0)
    );
}

#[test]
fn a_later_put_replaces_an_earlier_one_before_either_is_stored() {
    let folds = |first: Op, second: Op| {
        let mut folder = Folder::new();
        for op in [admitted(first), admitted(second)] {
            folder.push(1, "k", OpRef::from(op.op.as_ref().unwrap()));
        }
        folder.take()
    };
    let image = || Op::Put(large(1));
    let is_large = |ops: &[KeyOp]| {
        matches!(
            ops,
            [KeyOp {
                op: Some(Op::PutLarge(_)),
                ..
            }]
        )
    };
    assert!(is_large(&folds(image(), Op::Put(large(2)))));
    assert!(is_large(&folds(Op::Put(integer(1)), image())));
    assert!(is_large(&folds(Op::Delete(true), image())));
    let [small] = &folds(image(), Op::Put(integer(1)))[..] else {
        panic!("both stayed");
    };
    assert_eq!(small.op, Some(Op::Put(integer(1))));
    assert_eq!(folds(image(), Op::Delete(true)).len(), 1);
    // Refused in the state, in its turn.
    assert_eq!(folds(image(), Op::Add(integer(1))).len(), 2);
    assert_eq!(folds(Op::Add(integer(1)), image()).len(), 2);
}
