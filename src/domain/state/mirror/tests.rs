//! The rules of the fold, one by one.

use super::{
    super::fixtures::{fence, integer, op, put, stream, text, uid},
    *,
};

fn state() -> State {
    State::new(StateId::trusted("s"))
}

fn delta(parts: Vec<Part>) -> StateDelta {
    StateDelta {
        state: "s".into(),
        create_uid: uid(77),
        time_us: 5,
        parts,
        settings: None,
    }
}

fn apply(state: &mut State, revision: u64, part: Part) -> PartResult {
    let mut result = state.apply_delta(Revision(revision), &delta(vec![part]));
    result.parts.remove(0)
}

fn applied() -> PartResult {
    PartResult::Applied {
        rejected: Vec::new(),
    }
}

fn held(state: &State, key: &str) -> Option<Bytes> {
    state
        .table()
        .get(key)
        .and_then(|held| held.value.inline().cloned())
}

#[test]
fn all_parts_of_a_delta_share_its_revision() {
    let mut state = state();
    let parts = vec![
        stream(1, 1, 2, vec![put(1, "a", 1)]),
        stream(2, 1, 1, vec![put(1, "b", 2)]),
    ];
    let result = state.apply_delta(Revision(4), &delta(parts));
    assert_eq!(result.parts, [applied(), applied()]);
    let changes = state.table().changes_after(Revision::ZERO);
    let revisions: Vec<_> = changes.map(|(revision, _, _)| revision.0).collect();
    assert_eq!(revisions, [4, 4]);
    assert_eq!(
        (state.alive(), state.uid(), state.revision()),
        (true, Uid(77), Revision(4))
    );
    assert_eq!(state.writer(&Uid(1)).unwrap().sequence, 2);
    assert_eq!(&*state.table().get("b").unwrap().source, "w2");
}

#[test]
fn a_batch_that_is_in_is_not_applied_again() {
    let mut state = state();
    let add = stream(1, 1, 1, vec![op(1, "n", Op::Add(integer(1)))]);
    assert_eq!(apply(&mut state, 1, add.clone()), applied());
    let before = state.clone();
    let result = state.apply_delta(Revision(2), &delta(vec![add]));
    assert_eq!(result.parts, [PartResult::Duplicate]);
    assert!(!result.changed);
    assert_eq!(state, before);
}

#[test]
fn a_part_that_does_not_follow_is_skipped_whole() {
    let mut state = state();
    apply(&mut state, 1, stream(1, 1, 2, vec![put(1, "a", 1)]));
    for (first, last) in [(4, 4), (2, 3)] {
        let mut part = stream(1, first, last, vec![put(last, "a", 9)]);
        part.fence = Some(fence(8, 3));
        assert_eq!(apply(&mut state, 2, part), PartResult::Gap { position: 2 });
    }
    assert_eq!(held(&state, "a"), Some(integer(1)));
    assert_eq!(state.fence(&Uid(8)), 0);
    let unknown = stream(2, 5, 5, vec![]);
    assert_eq!(
        apply(&mut state, 3, unknown),
        PartResult::Gap { position: 0 }
    );
}

#[test]
fn a_lower_lease_than_was_announced_writes_nothing() {
    let mut state = state();
    let mut announcement = stream(1, 1, 0, vec![]);
    announcement.fence = Some(fence(8, 2));
    let result = state.apply_delta(Revision(1), &delta(vec![announcement]));
    assert_eq!((result.parts, result.changed), (vec![applied()], false));
    assert!(!state.alive());
    assert_eq!(state.fence(&Uid(8)), 2);

    let under = |writer, lease| {
        let mut part = stream(writer, 1, 1, vec![put(1, "a", 1)]);
        part.fence = Some(fence(8, lease));
        part
    };
    assert_eq!(apply(&mut state, 2, under(2, 1)), PartResult::Fenced);
    assert_eq!(apply(&mut state, 3, under(2, 2)), applied());
    assert_eq!(apply(&mut state, 4, under(3, 4)), applied());
    assert_eq!(apply(&mut state, 5, under(4, 3)), PartResult::Fenced);
}

#[test]
fn what_a_fenced_attempt_got_in_before_is_still_acknowledged() {
    let mut state = state();
    let mut old = stream(1, 1, 1, vec![put(1, "a", 1)]);
    old.fence = Some(fence(8, 1));
    apply(&mut state, 1, old.clone());
    let mut announcement = stream(2, 1, 0, vec![]);
    announcement.fence = Some(fence(8, 2));
    apply(&mut state, 2, announcement);
    assert_eq!(apply(&mut state, 3, old), PartResult::Duplicate);
}

#[test]
fn a_writer_that_moved_is_heard_from_its_new_server_only() {
    let mut state = state();
    apply(&mut state, 1, stream(1, 1, 3, vec![put(1, "a", 1)]));
    let at = |epoch: u64, first, last| {
        let mut part = stream(1, first, last, vec![put(last, "a", epoch.cast_signed())]);
        part.epoch = epoch;
        part
    };
    assert_eq!(apply(&mut state, 2, at(2, 4, 3)), applied());
    assert_eq!(state.writer(&Uid(1)).unwrap().sequence, 3);
    assert_eq!(held(&state, "a"), Some(integer(1)));
    assert_eq!(apply(&mut state, 3, at(1, 4, 4)), PartResult::OldEpoch);
    assert_eq!(apply(&mut state, 4, at(1, 4, 3)), PartResult::OldEpoch);
    assert_eq!(apply(&mut state, 5, at(2, 4, 4)), applied());
    assert_eq!(held(&state, "a"), Some(integer(2)));
}

#[test]
fn a_task_contributes_once() {
    let mut state = state();
    let part = Part {
        writer: Some(Writer::Contribution(uid(8))),
        first_sequence: 1,
        last_sequence: 1,
        ops: vec![op(1, "done", Op::Add(integer(1)))],
        ..Part::default()
    };
    assert_eq!(apply(&mut state, 1, part.clone()), applied());
    assert_eq!(apply(&mut state, 2, part), PartResult::AlreadyContributed);
    assert_eq!(held(&state, "done"), Some(integer(1)));
    assert!(state.contributed(&Uid(8)) && !state.contributed(&Uid(9)));
}

#[test]
fn a_refused_key_is_told_and_the_others_are_applied() {
    let mut state = state();
    apply(
        &mut state,
        1,
        stream(1, 1, 1, vec![op(1, "t", Op::Put(text("x")))]),
    );
    let arrival = RejectedOp {
        sequence: 3,
        key: "big".into(),
        reason: "VALUE_TOO_LARGE".into(),
    };
    let mut part = stream(
        1,
        2,
        3,
        vec![
            op(3, "n", Op::Add(integer(i64::MAX))),
            op(3, "n", Op::Add(integer(1))),
            op(2, "t", Op::Add(integer(1))),
            put(3, "fine", 1),
        ],
    );
    part.rejected.push(arrival.clone());
    let PartResult::Applied { rejected } = apply(&mut state, 2, part) else {
        panic!("the part follows");
    };
    let told = |sequence, key: &str, reason: &str| RejectedOp {
        sequence,
        key: key.into(),
        reason: reason.into(),
    };
    assert_eq!(
        rejected,
        [
            told(2, "t", "TYPE_MISMATCH"),
            arrival,
            told(3, "n", "OVERFLOW")
        ]
    );
    assert_eq!(held(&state, "fine"), Some(integer(1)));
    assert_eq!(held(&state, "n"), Some(integer(i64::MAX)));
    assert_eq!(state.writer(&Uid(1)).unwrap().sequence, 3);
}

#[test]
fn what_nobody_can_see_moves_no_revision() {
    let mut state = state();
    apply(&mut state, 1, stream(1, 1, 1, vec![put(1, "a", 5)]));
    let part = stream(1, 2, 2, vec![op(2, "a", Op::Max(integer(4)))]);
    let result = state.apply_delta(Revision(2), &delta(vec![part]));
    assert_eq!((result.parts, result.changed), (vec![applied()], false));
    assert_eq!(state.revision(), Revision(1));
    assert_eq!(state.writer(&Uid(1)).unwrap().sequence, 2);
}

#[test]
fn an_update_without_a_number_is_applied_each_time() {
    let mut state = state();
    let part = Part {
        ops: vec![op(0, "n", Op::Add(integer(1)))],
        ..Part::default()
    };
    apply(&mut state, 1, part.clone());
    apply(&mut state, 2, part);
    assert_eq!(held(&state, "n"), Some(integer(2)));
}

#[test]
fn the_size_follows_keys_and_values() {
    let mut state = state();
    let ops = vec![
        put(1, "ab", 1),
        op(1, "c", Op::Put(text("hello"))),
        put(1, "ab", 300),
    ];
    apply(&mut state, 1, stream(1, 1, 1, ops));
    assert_eq!(state.size_bytes(), (2 + 3) + (1 + 7));
    apply(
        &mut state,
        2,
        stream(1, 2, 2, vec![op(2, "c", Op::Delete(true))]),
    );
    assert_eq!((state.size_bytes(), state.key_count()), (2 + 3, 1));
}
