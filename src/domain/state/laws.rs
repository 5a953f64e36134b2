//! What holds for every history of a state, whatever its writers, servers and clients do.

use proptest::prelude::*;

use super::{
    fixtures::{fence, integer, op, ops, stream, uid},
    *,
};
use crate::domain::{Revision, StateId, Uid};

/// A part, relative to where its writer stands when it is appended.
#[derive(Clone, Debug)]
struct Planned {
    writer: u128,
    stream: bool,
    epoch: u64,
    /// Where it begins after the next batch: before it a duplicate, after it a gap.
    offset: i64,
    batches: u64,
    fence: Option<(u128, u64)>,
    ops: Vec<KeyOp>,
    /// Keys that get a large value, and whether the journal lost that.
    large: Vec<(u8, bool)>,
}

#[derive(Clone, Debug)]
enum Step {
    Delta(Vec<Planned>),
    /// The delta before once more, as an append with an unknown result may leave it.
    Again,
    /// A large value and no delta behind it: the process died between the two.
    Orphan,
    Snapshot {
        forget: u64,
        silent: i64,
        tasks: bool,
    },
    Deletion,
    Settings(u64),
}

fn planned(writer: u128) -> impl Strategy<Value = Planned> {
    (
        any::<prop::sample::Index>().prop_map(|index| index.index(5) > 0),
        prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(2)],
        prop_oneof![5 => Just(0), 1 => -2..=2_i64],
        0..3_u64,
        prop::option::of((0..2_u128, 0..4_u64)),
        ops(3, 5),
        prop::collection::vec((0..3_u8, prop::bool::weighted(0.1)), 0..3),
    )
        .prop_map(
            move |(stream, epoch, offset, batches, fence, ops, large)| Planned {
                writer,
                stream,
                epoch,
                offset,
                batches,
                fence,
                ops,
                large,
            },
        )
}

/// At most one part for each writer, as the monitor makes them.
fn step() -> impl Strategy<Value = Step> {
    let parts = (0..3_u128)
        .map(|writer| prop::option::of(planned(writer)))
        .collect::<Vec<_>>()
        .prop_map(|parts| Step::Delta(parts.into_iter().flatten().collect()));
    prop_oneof![
        6 => parts,
        1 => Just(Step::Again),
        1 => Just(Step::Orphan),
        2 => (0..12_u64, 0..12_i64, any::<bool>())
            .prop_map(|(forget, silent, tasks)| Step::Snapshot { forget, silent, tasks }),
        1 => Just(Step::Deletion),
        1 => (0..3_u64).prop_map(Step::Settings),
    ]
}

#[derive(Clone, Debug)]
enum Entry {
    Value(LargeValue),
    Delta(StateDelta),
    Snapshot(StateSnapshot),
}

/// A put of a large value and the entry with it, under a uid made of a number.
fn large_put(key: u8, uid: u64) -> (KeyOp, LargeValue) {
    let mut put = LargePut {
        size: 1_000 * uid,
        content_type: format!("text/{uid}"),
        ..LargePut::default()
    };
    let value = put.take_entry("s", Uid(uid.into()));
    let put = Op::PutLarge(Box::new(put));
    (op(0, &format!("k{key}"), put), value)
}

fn part(state: &State, planned: &Planned) -> Part {
    let position = state
        .writer(&Uid(planned.writer))
        .unwrap_or_default()
        .sequence;
    let first = (position + 1).saturating_add_signed(planned.offset).max(1);
    let last = first + planned.batches - 1;
    let mut part = stream(planned.writer, first, last, planned.ops.clone());
    if !planned.stream {
        part.writer = Some(Writer::Contribution(uid(planned.writer)));
    }
    part.epoch = planned.epoch;
    part.last = planned.batches == 2;
    part.fence = planned.fence.map(|(task, lease)| fence(task, lease));
    part
}

/// What a step appends; values stand before their delta. `now` also makes uids.
fn entries(state: &State, step: &Step, last: Option<&Entry>, now: u64) -> Vec<Entry> {
    let mut values = Vec::new();
    let entry = match step {
        Step::Delta(parts) => {
            let parts = parts.iter().map(|planned| {
                let mut part = part(state, planned);
                for (key, lost) in &planned.large {
                    let uid = 1_000 * now + values.len() as u64 + u64::from(*lost) * 500;
                    let (op, value) = large_put(*key, uid);
                    part.ops.push(op);
                    values.extend((!lost).then_some(Entry::Value(value)));
                }
                part
            });
            Entry::Delta(StateDelta {
                state: "s".into(),
                create_uid: uid(now.into()),
                time_us: now.cast_signed(),
                parts: parts.collect(),
                settings: None,
            })
        }
        Step::Settings(interval) => Entry::Delta(StateDelta {
            state: "s".into(),
            create_uid: uid(now.into()),
            time_us: now.cast_signed(),
            parts: Vec::new(),
            settings: Some(Settings {
                merge_interval_us: *interval,
                ..Settings::default()
            }),
        }),
        Step::Again => return last.cloned().into_iter().collect(),
        Step::Orphan => Entry::Value(large_put(0, 1_000 * now).1),
        Step::Snapshot {
            forget,
            silent,
            tasks,
        } => Entry::Snapshot(state.snapshot(&Prune {
            tombstones_up_to: Revision(*forget),
            writers_before_us: *silent,
            done_before_us: silent + 3,
            keep_writer: &|writer| writer == Uid(1),
            keep_task: &|_| *tasks,
        })),
        Step::Deletion => Entry::Snapshot(state.deletion(now.cast_signed())),
    };
    values.push(entry);
    values
}

/// The revision behind the last one.
fn next(revision: &mut u64) -> u64 {
    *revision += 1;
    *revision
}

fn fold(state: &mut State, revision: u64, entry: &Entry) -> Option<DeltaResult> {
    match entry {
        Entry::Value(value) => {
            state.apply_value(Revision(revision), value);
            None
        }
        Entry::Delta(delta) => Some(state.apply_delta(Revision(revision), delta)),
        Entry::Snapshot(snapshot) => {
            state.apply_snapshot(Revision(revision), snapshot);
            None
        }
    }
}

fn new() -> State {
    State::new(StateId::trusted("s"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_replay_after_compaction_ends_where_the_live_state_stands(
        steps in prop::collection::vec(step(), 1..20),
    ) {
        let mut live = new();
        let mut journal: Vec<(u64, Entry)> = Vec::new();
        let mut head = 0;
        for (now, step) in (1_u64..).zip(&steps) {
            let last = journal.last().map(|(_, entry)| entry);
            // A repeated snapshot would undo what came between; those are compare-and-set.
            let last = last.filter(|entry| matches!(entry, Entry::Delta(_)));
            for entry in entries(&live, step, last, now) {
                let revision = next(&mut head);
                let before = live.clone();
                let result = fold(&mut live, revision, &entry);
                match &entry {
                    // All goes that the state does not refer to.
                    Entry::Snapshot(_) => {
                        let kept: Vec<_> = live.large_values().collect();
                        journal.retain(|(revision, _)| kept.contains(&Revision(*revision)));
                    }
                    Entry::Value(_) => prop_assert_eq!(live.revision(), before.revision()),
                    Entry::Delta(_) => {
                        // A cursor misses nothing and a revision never goes back.
                        let changed = live.table().changes_after(before.revision()).count() > 0;
                        prop_assert_eq!(result.map(|result| result.changed), Some(changed));
                        prop_assert!(!live.has_unclaimed() || before.has_unclaimed());
                    }
                }
                prop_assert!(live.revision() >= before.revision());
                prop_assert!(live.horizon() >= before.horizon());
                journal.push((revision, entry));

                // Every reference leads to its value.
                for value in live.large_values() {
                    let found = journal.iter().find(|(revision, _)| Revision(*revision) == value);
                    prop_assert!(matches!(found, Some((_, Entry::Value(_)))));
                }
                let held = live.table().iter().map(|(_, _, held)| held);
                let sizes: usize = held.filter_map(|held| held.value.large()).map(LargeRef::size).sum();
                prop_assert_eq!(live.large_bytes(), sizes);

                let mut replayed = new();
                for (revision, entry) in &journal {
                    fold(&mut replayed, *revision, entry);
                }
                prop_assert_eq!(&replayed, &live);
            }
        }
    }

    #[test]
    fn a_delta_applied_twice_has_the_effect_of_once(
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let mut state = new();
        let mut head = 0;
        for (now, step) in (1..).zip(&steps) {
            for entry in entries(&state, step, None, now) {
                fold(&mut state, next(&mut head), &entry);
                let once = state.clone();
                if matches!(entry, Entry::Delta(_)) {
                    let result = fold(&mut state, next(&mut head), &entry).unwrap();
                    prop_assert!(!result.changed);
                    prop_assert_eq!(&state, &once);
                }
            }
        }
    }

    #[test]
    fn what_is_skipped_leaves_no_trace(steps in prop::collection::vec(step(), 1..20)) {
        let mut state = new();
        let mut head = 0;
        for (now, step) in (1..).zip(&steps) {
            for entry in entries(&state, step, None, now) {
                let revision = next(&mut head);
                let Entry::Delta(delta) = &entry else {
                    fold(&mut state, revision, &entry);
                    continue;
                };
                for part in &delta.parts {
                    let alone = StateDelta { parts: vec![part.clone()], ..delta.clone() };
                    let mut before = state.clone();
                    let fence = part.fence.as_ref();
                    let fenced = fence.is_some_and(|fence| {
                        fence.fence < before.fence(&Uid::from_bytes(&fence.task_uid).unwrap())
                    });
                    let result = state.apply_delta(Revision(revision), &alone);
                    if !matches!(result.parts[..], [PartResult::Applied { .. }]) {
                        // But that its values have no chance any more.
                        before.unclaimed.settle(part.ops.iter());
                        prop_assert_eq!(&state, &before);
                    } else {
                        prop_assert!(!fenced, "a fenced part was applied");
                    }
                }
            }
        }
    }

    #[test]
    fn every_batch_counts_once_whatever_the_journal_repeats(
        parts in prop::collection::vec((0..3_u128, 1..8_u64, 1..4_u64), 1..40),
    ) {
        let mut state = new();
        for (revision, (writer, first, batches)) in (1..).zip(parts) {
            let last = first + batches - 1;
            let count = |sequence| op(sequence, &format!("n{writer}"), Op::Add(integer(1)));
            let part = stream(writer, first, last, (first..=last).map(count).collect());
            let delta = StateDelta { parts: vec![part], ..StateDelta::default() };
            state.apply_delta(Revision(revision), &delta);
        }
        for writer in 0..3 {
            let applied = state.writer(&Uid(writer)).map(|writer| writer.sequence.cast_signed());
            let counted = state.table().get(format!("n{writer}").as_str());
            prop_assert_eq!(counted.and_then(|held| held.value.inline().cloned()), applied.map(integer));
        }
    }
}
