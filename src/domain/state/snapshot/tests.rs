use super::{
    super::{
        delta::{Op, Part, Settings, StateDelta},
        fixtures::{fence, op, put, stream, uid as bytes},
        mirror::PartResult,
    },
    *,
};
use crate::domain::{
    StateId,
    table::{Content, Place},
};

fn apply(state: &mut State, revision: u64, part: Part) -> PartResult {
    let delta = StateDelta {
        create_uid: bytes(u128::from(revision)),
        time_us: revision.cast_signed(),
        parts: vec![part],
        ..StateDelta::default()
    };
    state
        .apply_delta(Revision(revision), &delta)
        .parts
        .remove(0)
}

fn delete(sequence: u64, key: &str) -> Part {
    stream(
        1,
        sequence,
        sequence,
        vec![op(sequence, key, Op::Delete(true))],
    )
}

fn state() -> State {
    let mut state = State::new(StateId::trusted("s"));
    let mut part = stream(
        1,
        1,
        1,
        vec![put(1, "a", 1), put(1, "b", 1), put(1, "c", 1)],
    );
    part.fence = Some(fence(8, 2));
    apply(&mut state, 1, part);
    apply(&mut state, 2, delete(2, "b"));
    apply(&mut state, 3, delete(3, "c"));
    state
}

/// What a watch with a cursor would be sent: revision, key, alive.
fn after(state: &State, cursor: u64) -> Vec<(u64, String, bool)> {
    let changes = state.table().changes_after(Revision(cursor));
    changes
        .map(|(r, key, content)| (r.0, key.to_string(), matches!(content, Content::Live(_))))
        .collect()
}

#[test]
fn a_snapshot_changes_nothing_that_a_watch_can_see() {
    let mut folded = state();
    let before = folded.clone();
    folded.apply_snapshot(Revision(4), &before.snapshot(&Prune::NOTHING));
    assert_eq!(folded, before);
    assert_eq!(folded.size_bytes(), before.size_bytes());
}

#[test]
fn settings_live_as_long_as_the_incarnation() {
    let mut state = state();
    let settings = Settings {
        merge_interval_us: 5,
        retention_us: 6,
        set_us: 7,
    };
    let with_settings = StateSnapshot {
        settings: Some(settings),
        revision: 0,
        ..state.snapshot(&Prune::NOTHING)
    };
    state.apply_snapshot(Revision(4), &with_settings);
    assert_eq!(
        (state.settings(), state.revision()),
        (settings, Revision(4))
    );
    state.apply_snapshot(Revision(5), &state.snapshot(&Prune::NOTHING));
    assert_eq!(
        (state.settings(), state.revision()),
        (settings, Revision(4))
    );
    state.apply_snapshot(Revision(6), &state.deletion(60));
    assert_eq!(state.settings(), Settings::default());
}

#[test]
fn what_a_snapshot_forgets_raises_the_horizon() {
    let mut state = state();
    let prune = |up_to| Prune {
        tombstones_up_to: Revision(up_to),
        ..Prune::NOTHING
    };
    state.apply_snapshot(Revision(4), &state.snapshot(&prune(2)));
    assert_eq!(state.horizon(), Revision(2));
    assert_eq!(
        after(&state, 0),
        [(1, "a".into(), true), (3, "c".into(), false)]
    );
    // Nothing was forgotten between 3 and 9, so watches resume from 3 on.
    state.apply_snapshot(Revision(10), &state.snapshot(&prune(9)));
    assert_eq!(state.horizon(), Revision(3));
    state.apply_snapshot(Revision(11), &state.snapshot(&Prune::NOTHING));
    assert_eq!(state.horizon(), Revision(3));
}

#[test]
fn too_many_tombstones_are_forgotten_oldest_first() {
    let mut state = state();
    let ops = (0..MAX_TOMBSTONES).map(|key| op(4, &format!("k{key}"), Op::Delete(true)));
    apply(&mut state, 4, stream(1, 4, 4, ops.collect()));
    let snapshot = state.snapshot(&Prune::NOTHING);
    assert_eq!(
        (snapshot.tombstones.len(), snapshot.horizon),
        (MAX_TOMBSTONES, 3)
    );
}

#[test]
fn silent_writers_and_ended_tasks_are_forgotten_unless_kept() {
    let mut state = state();
    apply(&mut state, 9, stream(2, 1, 1, vec![]));
    let writers = |snapshot: &StateSnapshot| -> Vec<u128> {
        snapshot
            .writers
            .iter()
            .map(|writer| uid(&writer.writer_id).0)
            .collect()
    };
    let prune = Prune {
        writers_before_us: 9,
        keep_writer: &|_| false,
        keep_task: &|_| false,
        ..Prune::NOTHING
    };
    let snapshot = state.snapshot(&prune);
    assert_eq!(writers(&snapshot), [2]);
    assert_eq!(snapshot.mentions, []);
    let kept = Prune {
        keep_writer: &|writer| writer == Uid(1),
        keep_task: &|task| task == Uid(8),
        ..prune
    };
    let snapshot = state.snapshot(&kept);
    assert_eq!(writers(&snapshot), [1, 2]);
    assert_eq!(snapshot.mentions.len(), 1);
}

#[test]
fn a_deletion_tells_watches_of_every_key() {
    let mut state = state();
    state.apply_snapshot(Revision(7), &state.deletion(70));
    assert!(!state.alive());
    assert_eq!((state.revision(), state.update_us()), (Revision(7), 70));
    assert_eq!((state.key_count(), state.size_bytes()), (0, 0));
    assert_eq!(after(&state, 3), [(7, "a".into(), false)]);
}

#[test]
fn a_new_incarnation_takes_nothing_twice_and_hides_no_deletion() {
    let mut state = state();
    state.apply_snapshot(Revision(7), &state.deletion(70));
    let resent = stream(1, 1, 1, vec![put(1, "a", 1)]);
    assert_eq!(apply(&mut state, 8, resent), PartResult::Duplicate);
    assert!(!state.alive());
    apply(&mut state, 9, stream(1, 4, 4, vec![put(4, "b", 2)]));
    assert!(state.alive());
    assert_eq!((state.uid(), state.create_us()), (Uid(9), 9));
    assert_eq!(
        after(&state, 3),
        [(7, "a".into(), false), (9, "b".into(), true)]
    );
    assert_eq!(state.fence(&Uid(8)), 2);
}

#[test]
fn a_walk_within_one_revision_goes_on_behind_a_snapshot() {
    let mut state = State::new(StateId::trusted("s"));
    let names = ["m", "c", "x", "a", "t", "g"];
    let puts = names.iter().map(|name| put(1, name, 1)).collect();
    apply(&mut state, 1, stream(1, 1, 1, puts));
    apply(&mut state, 2, delete(2, "g"));
    let mut changes = state.table().changes_behind(Place::after(Revision::ZERO));
    let (_, first, _) = changes.next().unwrap();
    let (place, second, _) = changes.next().unwrap();
    let mut seen = vec![first.to_string(), second.to_string()];
    drop(changes);
    // What is forgotten and what is new move nobody.
    let snapshot = state.snapshot(&Prune {
        tombstones_up_to: Revision(2),
        ..Prune::NOTHING
    });
    state.apply_snapshot(Revision(3), &snapshot);
    apply(&mut state, 4, stream(1, 3, 3, vec![put(3, "b", 1)]));
    state.apply_snapshot(Revision(5), &state.snapshot(&Prune::NOTHING));
    let rest = state.table().changes_behind(place);
    seen.extend(rest.map(|(_, key, _)| key.to_string()));
    seen.sort_unstable();
    assert_eq!(seen, ["a", "b", "c", "m", "t", "x"]);
}
