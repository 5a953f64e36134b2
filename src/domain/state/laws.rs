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
}

#[derive(Clone, Debug)]
enum Step {
    Delta(Vec<Planned>),
    /// The delta before once more, as an append with an unknown result may leave it.
    Again,
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
    )
        .prop_map(
            move |(stream, epoch, offset, batches, fence, ops)| Planned {
                writer,
                stream,
                epoch,
                offset,
                batches,
                fence,
                ops,
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
        2 => (0..12_u64, 0..12_i64, any::<bool>())
            .prop_map(|(forget, silent, tasks)| Step::Snapshot { forget, silent, tasks }),
        1 => Just(Step::Deletion),
        1 => (0..3_u64).prop_map(Step::Settings),
    ]
}

#[derive(Clone, Debug)]
enum Entry {
    Delta(StateDelta),
    Snapshot(StateSnapshot),
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

fn entry(state: &State, step: &Step, last: Option<&Entry>, now: i64) -> Option<Entry> {
    Some(match step {
        Step::Delta(parts) => Entry::Delta(StateDelta {
            state: "s".into(),
            create_uid: uid(now.cast_unsigned().into()),
            time_us: now,
            parts: parts.iter().map(|planned| part(state, planned)).collect(),
            settings: None,
        }),
        Step::Settings(interval) => Entry::Delta(StateDelta {
            state: "s".into(),
            create_uid: uid(now.cast_unsigned().into()),
            time_us: now,
            parts: Vec::new(),
            settings: Some(Settings {
                merge_interval_us: *interval,
                ..Settings::default()
            }),
        }),
        Step::Again => last?.clone(),
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
        Step::Deletion => Entry::Snapshot(state.deletion(now)),
    })
}

fn fold(state: &mut State, revision: u64, entry: &Entry) -> Option<DeltaResult> {
    match entry {
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
        for (revision, step) in (1_u64..).zip(&steps) {
            let last = journal.last().map(|(_, entry)| entry);
            // A repeated snapshot would undo what came between; those are compare-and-set.
            let last = last.filter(|entry| matches!(entry, Entry::Delta(_)));
            let now = revision.cast_signed();
            let Some(entry) = entry(&live, step, last, now) else {
                continue;
            };
            let before = live.clone();
            let result = fold(&mut live, revision, &entry);
            match &entry {
                Entry::Snapshot(_) => journal.clear(),
                Entry::Delta(_) => {
                    // A cursor misses nothing and a revision never goes back.
                    let changed = live.table().changes_after(before.revision()).count() > 0;
                    prop_assert_eq!(result.map(|result| result.changed), Some(changed));
                }
            }
            prop_assert!(live.revision() >= before.revision());
            prop_assert!(live.horizon() >= before.horizon());
            journal.push((revision, entry));

            let mut replayed = new();
            for (revision, entry) in &journal {
                fold(&mut replayed, *revision, entry);
            }
            prop_assert_eq!(&replayed, &live);
        }
    }

    #[test]
    fn a_delta_applied_twice_has_the_effect_of_once(
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let mut state = new();
        for (revision, step) in (1..).step_by(2).zip(&steps) {
            let Some(entry) = entry(&state, step, None, 1) else {
                continue;
            };
            fold(&mut state, revision, &entry);
            let once = state.clone();
            if let Some(result) = fold(&mut state, revision + 1, &entry)
                && matches!(entry, Entry::Delta(_))
            {
                prop_assert!(!result.changed);
                prop_assert_eq!(&state, &once);
            }
        }
    }

    #[test]
    fn what_is_skipped_leaves_no_trace(steps in prop::collection::vec(step(), 1..20)) {
        let mut state = new();
        for (revision, step) in (1..).zip(&steps) {
            let Some(entry) = entry(&state, step, None, 1) else {
                continue;
            };
            let Entry::Delta(delta) = &entry else {
                fold(&mut state, revision, &entry);
                continue;
            };
            for part in &delta.parts {
                let alone = StateDelta { parts: vec![part.clone()], ..delta.clone() };
                let before = state.clone();
                let fence = part.fence.as_ref();
                let fenced = fence.is_some_and(|fence| {
                    fence.fence < before.fence(&Uid::from_bytes(&fence.task_uid).unwrap())
                });
                let result = state.apply_delta(Revision(revision), &alone);
                if !matches!(result.parts[..], [PartResult::Applied { .. }]) {
                    prop_assert_eq!(&state, &before);
                } else {
                    prop_assert!(!fenced, "a fenced part was applied");
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
            prop_assert_eq!(counted.map(|held| held.value.clone()), applied.map(integer));
        }
    }
}
