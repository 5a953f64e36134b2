//! Over any history the local journal is equal to the one in memory.

use proptest::{prelude::*, test_runner::TestRunner};
use tempfile::TempDir;

use super::{tests::open, *};
use crate::{
    domain::Entry,
    journal::{
        Appended, MemoryStore,
        conformance::{namespace, plain, replayed, task},
    },
};

/// One step of a random history, over few entities so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Sketch>),
    Reopen { replay: bool },
}

/// A draft whose revisions are not known yet.
#[derive(Clone, Debug)]
struct Sketch {
    id: u8,
    size: usize,
    expect: Expect,
    /// How far behind the head, from a few in this group on.
    supersedes: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Nothing,
    /// What stands before the group.
    Right,
    Revision(u64),
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![20 => 0usize..300, 2 => 300usize..1_500, 1 => 4_000usize..6_000];
    let expect = prop_oneof![
        8 => Just(Expect::Nothing),
        2 => Just(Expect::Right),
        1 => (0u64..200).prop_map(Expect::Revision),
    ];
    let near = prop::collection::vec(0u64..60, 0..8);
    let far = prop::collection::vec(0u64..600, 0..16);
    let supersedes = prop_oneof![2 => near, 1 => far];
    let sketch = (0u8..4, size, expect, supersedes);
    let sketch = sketch.prop_map(|(id, size, expect, supersedes)| Sketch {
        id,
        size,
        expect,
        supersedes,
    });
    let step = prop_oneof![
        8 => prop::collection::vec(sketch, 1..50).prop_map(Step::Append),
        1 => any::<bool>().prop_map(|replay| Step::Reopen { replay }),
    ];
    prop::collection::vec(step, 1..24)
}

/// What stands of each entity may only be superseded by the entity itself: as the contract says.
/// `owners` has the entity of each revision so far.
fn drafts(group: Vec<Sketch>, owners: &[String]) -> Vec<Draft> {
    let head = owners.len() as u64;
    let size = group.len() as u64;
    let draft = |sketch: Sketch| {
        let id = sketch.id.to_string();
        let last = || owners.iter().rposition(|owner| *owner == id);
        let mut old = sketch.supersedes;
        for behind in &mut old {
            *behind = (head + size / 2).saturating_sub(*behind);
        }
        // What is to come in this group has no owner yet; there both do the same.
        old.retain(|&old| match usize::try_from(old).unwrap().checked_sub(1) {
            Some(place) => owners.get(place).is_none_or(|owner| *owner == id),
            None => true,
        });
        Draft {
            expect: match sketch.expect {
                Expect::Nothing => None,
                Expect::Right => Some(Revision(last().map_or(0, |place| place as u64 + 1))),
                Expect::Revision(revision) => Some(Revision(revision)),
            },
            supersedes: old.into_iter().map(Revision).collect(),
            ..plain(task(&id, &"x".repeat(sketch.size)))
        }
    };
    group.into_iter().map(draft).collect()
}

fn id(entry: &Entry) -> String {
    match entry {
        Entry::Task(task) => task.id.clone(),
        other => panic!("only tasks are appended, found {other:?}"),
    }
}

#[test]
fn it_is_equal_to_the_journal_in_memory_over_any_history() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 32,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&history(), |steps| {
        let folder = TempDir::new().unwrap();
        let memory = MemoryStore::default();
        let mut store = open(&folder).unwrap();
        let mut ours = Store::open(&store, &namespace("a")).unwrap();
        let mut theirs = Store::open(&memory, &namespace("a")).unwrap();
        let mut owners = Vec::new();
        for step in steps {
            match step {
                Step::Append(group) => {
                    let group = drafts(group, &owners);
                    let Appended {
                        committed,
                        outcomes,
                    } = runtime.block_on(ours.append(group.clone())).unwrap();
                    let expected = runtime.block_on(theirs.append(group)).unwrap();
                    prop_assert_eq!(&committed, &expected.committed);
                    prop_assert_eq!(outcomes, expected.outcomes);
                    owners.extend(committed.iter().map(|new| id(&new.entry)));
                }
                Step::Reopen { replay } => {
                    drop(store);
                    store = open(&folder).unwrap();
                    ours = Store::open(&store, &namespace("a")).unwrap();
                    memory.close().unwrap();
                    theirs = Store::open(&memory, &namespace("a")).unwrap();
                    if !replay {
                        continue;
                    }
                }
            }
            prop_assert_eq!(replayed(ours.as_ref()), replayed(theirs.as_ref()));
            let all: Vec<_> = (0..owners.len() as u64 + 2).rev().map(Revision).collect();
            let read = runtime.block_on(ours.read_many(all.clone())).unwrap();
            let expected = runtime.block_on(theirs.read_many(all)).unwrap();
            prop_assert_eq!(read, expected);
        }
        Ok(())
    });
    outcome.unwrap();
}
