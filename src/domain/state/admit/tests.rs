use super::{
    super::fixtures::{integer, op, put, stream, text},
    *,
};
use crate::domain::{
    Revision, StateId,
    state::{Part, StateDelta},
};

fn reasons(admitted: &Admitted) -> Vec<(&str, &str)> {
    let rejected = admitted.rejected.iter();
    rejected
        .map(|rejected| (rejected.key.as_str(), rejected.reason.as_str()))
        .collect()
}

#[test]
fn a_bad_key_is_refused_and_its_batch_goes_on() {
    let long = "é".repeat(200);
    let mut nothing = put(1, "nothing", 0);
    nothing.op = None;
    let admitted = admit(vec![
        put(1, "", 1),
        put(1, &long, 1),
        put(1, "fine", 1),
        op(1, "text", Op::Add(text("one"))),
        op(1, "broken", Op::Put(vec![0xff].into())),
        op(1, "undecided", Op::Delete(false)),
        nothing,
        op(1, "gone", Op::Delete(true)),
    ]);
    let kept: Vec<_> = admitted.ops.iter().map(|op| op.key.as_str()).collect();
    assert_eq!(kept, ["fine", "gone"]);
    assert_eq!(
        reasons(&admitted),
        [
            ("", "KEY_INVALID"),
            (&*"é".repeat(128), "KEY_INVALID"),
            ("text", "VALUE_INVALID"),
            ("broken", "VALUE_INVALID"),
            ("undecided", "VALUE_INVALID"),
            ("nothing", "VALUE_INVALID"),
        ]
    );
}

fn state_with(keys: usize) -> State {
    let mut state = State::new(StateId::trusted("s"));
    let ops = (0..keys).map(|key| put(1, &format!("k{key}"), 0)).collect();
    let parts: Vec<Part> = vec![stream(1, 1, 1, ops)];
    let delta = StateDelta {
        parts,
        ..StateDelta::default()
    };
    state.apply_delta(Revision(1), &delta);
    state
}

#[test]
fn a_full_state_takes_updates_of_its_keys_and_room_made_by_deletions() {
    let state = state_with(MAX_KEYS_PER_STATE);
    let mut first = admit(vec![
        put(1, "k0", 1),
        put(1, "new", 1),
        op(1, "k1", Op::Delete(true)),
        op(1, "k1", Op::Delete(true)),
        op(1, "count", Op::Add(integer(1))),
        put(1, "other", 1),
    ]);
    let mut budget = KeyBudget::new(&state, 9);
    budget.limit(&mut first);
    assert_eq!(
        reasons(&first),
        [("new", "TOO_MANY_KEYS"), ("other", "TOO_MANY_KEYS")]
    );
    let mut second = admit(vec![put(2, "count", 1), put(2, "k1", 1)]);
    budget.limit(&mut second);
    assert_eq!(reasons(&second), [("k1", "TOO_MANY_KEYS")]);
}

#[test]
fn the_bound_holds_to_the_key() {
    let state = state_with(MAX_KEYS_PER_STATE - 2);
    let mut batch = admit(vec![put(1, "a", 1), put(1, "b", 1), put(1, "c", 1)]);
    KeyBudget::new(&state, 3).limit(&mut batch);
    assert_eq!(reasons(&batch), [("c", "TOO_MANY_KEYS")]);
    let mut batch = admit(vec![put(1, "a", 1), put(1, "b", 1)]);
    KeyBudget::new(&state, 2).limit(&mut batch);
    assert_eq!(batch.ops.len(), 2);
}
