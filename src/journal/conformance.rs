//! What every journal must do. Each runs it with [`conformance!`](crate::journal::conformance).

use std::sync::Arc;

use super::{Appended, Committed, Conflict, Draft, Journal, Store};
use crate::domain::{
    Entry, NamespaceId, Revision, Uid,
    entry::{Horizon, Instance, Queue, QueueSettings, TaskRemoved},
    state::{LargeValue, StateDelta},
    task::Task,
};

/// A store that can be opened again after it was closed.
pub(crate) trait Reopen {
    fn open(&self) -> Arc<dyn Store>;
}

/// Runs the suite on what the expression makes: a fresh [`Reopen`].
macro_rules! conformance {
    ($make:expr) => {
        $crate::journal::conformance::conformance!($make,
            entries_get_revisions_in_order_without_gaps
            what_was_appended_is_there_after_a_reopen
            replay_gives_what_append_returned
            a_right_expectation_wins_and_a_wrong_one_names_what_stands
            drafts_of_one_group_see_each_other
            a_conflict_leaves_the_rest_of_its_group
            every_kind_of_entry_is_compared_by_its_entity
            superseded_entries_are_deleted_and_no_others
            an_entry_superseded_in_its_own_group_is_gone
            a_lost_draft_supersedes_nothing
            an_entry_is_read_back_until_it_is_superseded
            a_value_entry_is_no_entry_to_compare_with
            an_entity_is_unknown_once_its_removal_is_superseded
            the_head_is_beyond_what_was_superseded
            a_revision_is_never_issued_twice
            namespaces_are_independent_and_listed
            a_dropped_future_still_commits
            an_empty_group_is_answered
            a_closed_store_refuses
            the_epoch_stays
        );
    };
    ($make:expr, $($name:ident)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::journal::conformance::$name(&$make).await;
            }
        )*
    };
}
pub(crate) use conformance;

pub(crate) fn namespace(name: &str) -> NamespaceId {
    NamespaceId::parse(name).unwrap()
}

pub(crate) fn task(id: &str, queue: &str) -> Entry {
    Entry::Task(Box::new(Task {
        id: id.into(),
        queue: queue.into(),
        ..Task::default()
    }))
}

fn removed(id: &str) -> Entry {
    Entry::TaskRemoved(TaskRemoved {
        id: id.into(),
        ..TaskRemoved::default()
    })
}

fn delta(state: &str, time_us: i64) -> Entry {
    Entry::StateDelta(StateDelta {
        state: state.into(),
        time_us,
        ..StateDelta::default()
    })
}

fn value(state: &str, byte: u8) -> Entry {
    Entry::StateValue(LargeValue {
        state: state.into(),
        uid: Uid(byte.into()).to_bytes(),
        value: vec![byte; 100_000].into(),
    })
}

fn instance(uid: u128, time_us: i64) -> Entry {
    Entry::Instance(Instance {
        uid: Uid(uid).to_bytes(),
        time_us,
        ..Instance::default()
    })
}

fn queue(name: &str, paused: bool) -> Entry {
    Entry::Queue(Queue {
        name: name.into(),
        settings: QueueSettings {
            paused,
            ..QueueSettings::default()
        },
    })
}

fn horizon(revision: u64) -> Entry {
    Entry::Horizon(Horizon { revision })
}

pub(crate) fn plain(entry: Entry) -> Draft {
    Draft {
        entry,
        expect: None,
        supersedes: Vec::new(),
    }
}

pub(crate) fn expecting(entry: Entry, revision: u64) -> Draft {
    Draft {
        expect: Some(Revision(revision)),
        ..plain(entry)
    }
}

pub(crate) fn superseding(entry: Entry, revisions: &[u64]) -> Draft {
    Draft {
        supersedes: revisions.iter().map(|&old| Revision(old)).collect(),
        ..plain(entry)
    }
}

fn won(revision: u64) -> Result<Revision, Conflict> {
    Ok(Revision(revision))
}

fn lost(found: u64) -> Result<Revision, Conflict> {
    Err(Conflict {
        found: Revision(found),
    })
}

fn opened(store: &dyn Store) -> Arc<dyn Journal> {
    store.open(&namespace("default")).unwrap()
}

fn reopened(reopen: &dyn Reopen, store: Arc<dyn Store>) -> (Arc<dyn Store>, Arc<dyn Journal>) {
    store.close().unwrap();
    let store = reopen.open();
    let journal = opened(store.as_ref());
    (store, journal)
}

pub(crate) fn replayed(journal: &dyn Journal) -> (Vec<Committed>, Revision) {
    let mut entries = Vec::new();
    let head = journal.replay(&mut |entry| entries.push(entry)).unwrap();
    (entries, head)
}

fn revisions(journal: &dyn Journal) -> Vec<u64> {
    let (entries, _) = replayed(journal);
    entries.iter().map(|entry| entry.revision.0).collect()
}

async fn append(journal: &Arc<dyn Journal>, group: Vec<Draft>) -> Appended {
    let size = group.len();
    let appended = journal.append(group).await.unwrap();
    assert_eq!(appended.outcomes.len(), size);
    let won = appended.outcomes.iter().flatten().copied();
    let committed = appended.committed.iter().map(|entry| entry.revision);
    assert!(won.eq(committed));
    appended
}

pub(crate) async fn entries_get_revisions_in_order_without_gaps(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    assert_eq!(replayed(journal.as_ref()), (Vec::new(), Revision::ZERO));
    let group = vec![plain(task("a", "1")), plain(delta("s", 1))];
    assert_eq!(append(&journal, group).await.outcomes, [won(1), won(2)]);
    let group = vec![plain(task("a", "2")), plain(horizon(0))];
    assert_eq!(append(&journal, group).await.outcomes, [won(3), won(4)]);
    assert_eq!(revisions(journal.as_ref()), [1, 2, 3, 4]);
}

pub(crate) async fn what_was_appended_is_there_after_a_reopen(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    let mut expected = Vec::new();
    for number in 0..100 {
        let group = vec![plain(delta("s", number)), plain(task("t", "q"))];
        expected.extend(append(&journal, group).await.committed);
    }
    let (_store, journal) = reopened(reopen, store);
    assert_eq!(replayed(journal.as_ref()), (expected, Revision(200)));
}

pub(crate) async fn replay_gives_what_append_returned(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    let group = vec![
        plain(task("a", "q")),
        plain(removed("b")),
        plain(value("s", 7)),
        plain(delta("s", 7)),
        plain(instance(5, 8)),
        plain(horizon(3)),
    ];
    let appended = append(&journal, group).await;
    assert_eq!(replayed(journal.as_ref()).0, appended.committed);
}

pub(crate) async fn a_right_expectation_wins_and_a_wrong_one_names_what_stands(
    reopen: &dyn Reopen,
) {
    let mut store = reopen.open();
    let mut journal = opened(store.as_ref());
    let first = append(&journal, vec![expecting(task("a", "1"), 0)]).await;
    assert_eq!(first.outcomes, [won(1)]);
    // The second round says the same of what was read back.
    for round in 0..2 {
        let last = round + 1;
        let zero = append(&journal, vec![expecting(task("a", "x"), 0)]).await;
        assert_eq!(zero.outcomes, [lost(last)]);
        let future = append(&journal, vec![expecting(task("a", "x"), last + 1)]).await;
        assert_eq!(future.outcomes, [lost(last)]);
        let unknown = append(&journal, vec![expecting(task("b", "x"), last)]).await;
        assert_eq!(unknown.outcomes, [lost(0)]);
        assert!(unknown.committed.is_empty());
        let right = append(&journal, vec![expecting(task("a", "2"), last)]).await;
        assert_eq!(right.outcomes, [won(last + 1)]);
        (store, journal) = reopened(reopen, store);
    }
    assert_eq!(revisions(journal.as_ref()), [1, 2, 3]);
}

pub(crate) async fn drafts_of_one_group_see_each_other(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    let group = vec![
        expecting(task("a", "1"), 0),
        expecting(task("a", "2"), 0),
        expecting(task("a", "3"), 1),
        plain(task("a", "4")),
        expecting(task("a", "5"), 2),
        expecting(task("a", "6"), 3),
    ];
    let appended = append(&journal, group).await;
    let expected = [won(1), lost(1), won(2), won(3), lost(3), won(4)];
    assert_eq!(appended.outcomes, expected);
}

pub(crate) async fn a_conflict_leaves_the_rest_of_its_group(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    let group = vec![
        plain(task("a", "1")),
        expecting(task("b", "1"), 9),
        plain(task("c", "1")),
    ];
    let appended = append(&journal, group).await;
    assert_eq!(appended.outcomes, [won(1), lost(0), won(2)]);
    let (_store, journal) = reopened(reopen, store);
    let (entries, head) = replayed(journal.as_ref());
    assert_eq!((entries, head), (appended.committed, Revision(2)));
}

pub(crate) async fn every_kind_of_entry_is_compared_by_its_entity(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    // One name, and yet five entities.
    let group = vec![
        expecting(task("x", "1"), 0),
        expecting(delta("x", 1), 0),
        expecting(instance(1, 1), 0),
        expecting(instance(2, 1), 0),
        expecting(horizon(0), 0),
        expecting(removed("x"), 1),
        expecting(delta("x", 2), 2),
        expecting(instance(1, 2), 3),
        expecting(horizon(1), 5),
        expecting(queue("x", true), 0),
        expecting(queue("x", false), 10),
        expecting(task("x", "2"), 1),
    ];
    let appended = append(&journal, group).await;
    let (last, winners) = appended.outcomes.split_last().unwrap();
    assert!(winners.iter().all(Result::is_ok), "{winners:?}");
    assert_eq!(*last, lost(6));
}

pub(crate) async fn superseded_entries_are_deleted_and_no_others(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    let group = (1..=6).map(|number| plain(delta("s", number))).collect();
    append(&journal, group).await;
    // One of them twice, one that never was, and one to come, which stays.
    let group = vec![superseding(delta("s", 7), &[2, 4, 4, 0, 8])];
    append(&journal, group).await;
    append(&journal, vec![plain(delta("s", 8))]).await;
    assert_eq!(revisions(journal.as_ref()), [1, 3, 5, 6, 7, 8]);
    let (_store, journal) = reopened(reopen, store);
    assert_eq!(revisions(journal.as_ref()), [1, 3, 5, 6, 7, 8]);
}

pub(crate) async fn an_entry_superseded_in_its_own_group_is_gone(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    let group = vec![
        plain(task("a", "1")),
        superseding(task("a", "2"), &[1]),
        superseding(task("a", "3"), &[2, 3]),
    ];
    let appended = append(&journal, group).await;
    assert_eq!(appended.outcomes, [won(1), won(2), won(3)]);
    assert_eq!(revisions(journal.as_ref()), [3]);
    let (_store, journal) = reopened(reopen, store);
    assert_eq!(revisions(journal.as_ref()), [3]);
    let next = append(&journal, vec![expecting(task("a", "4"), 3)]).await;
    assert_eq!(next.outcomes, [won(4)]);
}

pub(crate) async fn a_lost_draft_supersedes_nothing(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    append(&journal, vec![plain(task("a", "1"))]).await;
    let loses = Draft {
        expect: Some(Revision(7)),
        ..superseding(task("a", "2"), &[1])
    };
    assert_eq!(append(&journal, vec![loses]).await.outcomes, [lost(1)]);
    assert_eq!(revisions(journal.as_ref()), [1]);
}

pub(crate) async fn an_entry_is_read_back_until_it_is_superseded(reopen: &dyn Reopen) {
    let mut store = reopen.open();
    let mut journal = opened(store.as_ref());
    let group = vec![
        plain(value("s", 1)),
        plain(value("s", 2)),
        plain(delta("s", 1)),
    ];
    let mut committed = append(&journal, group).await.committed;
    // Live and after a reopen, with a replay and without.
    for round in 0..3 {
        for entry in &committed {
            let read = journal.read(entry.revision).await.unwrap();
            assert_eq!(read.as_ref(), Some(entry), "in round {round}");
        }
        for never in [0, 4, u64::MAX] {
            assert_eq!(journal.read(Revision(never)).await.unwrap(), None);
        }
        (store, journal) = reopened(reopen, store);
        if round == 1 {
            assert_eq!(replayed(journal.as_ref()).0, committed);
        }
    }
    let group = vec![superseding(delta("s", 2), &[1, 3])];
    committed.extend(append(&journal, group).await.committed);
    for _ in 0..2 {
        for entry in &committed {
            let gone = [1, 3].contains(&entry.revision.0);
            let read = journal.read(entry.revision).await.unwrap();
            assert_eq!(read.as_ref(), Some(entry).filter(|_| !gone));
        }
        (store, journal) = reopened(reopen, store);
    }
    store.close().unwrap();
    assert!(journal.read(Revision(2)).await.is_err());
}

pub(crate) async fn a_value_entry_is_no_entry_to_compare_with(reopen: &dyn Reopen) {
    let mut store = reopen.open();
    let mut journal = opened(store.as_ref());
    let group = vec![plain(value("s", 1)), expecting(delta("s", 1), 0)];
    assert_eq!(append(&journal, group).await.outcomes, [won(1), won(2)]);
    for round in 0..2 {
        append(&journal, vec![plain(value("s", 2))]).await;
        let last = 2 + 3 * round;
        let group = vec![plain(value("s", 3)), expecting(delta("s", 2), last)];
        let appended = append(&journal, group).await;
        assert!(appended.outcomes.iter().all(Result::is_ok), "{appended:?}");
        (store, journal) = reopened(reopen, store);
    }
}

pub(crate) async fn an_entity_is_unknown_once_its_removal_is_superseded(reopen: &dyn Reopen) {
    let mut store = reopen.open();
    let mut journal = opened(store.as_ref());
    append(&journal, vec![plain(task("a", "1")), plain(task("b", "1"))]).await;
    let group = vec![
        superseding(removed("a"), &[1]),
        superseding(removed("b"), &[2]),
    ];
    append(&journal, group).await;
    // Until then the removal itself is what stands, live and read back.
    for _ in 0..2 {
        let group = vec![expecting(task("a", "2"), 0)];
        assert_eq!(append(&journal, group).await.outcomes, [lost(3)]);
        (store, journal) = reopened(reopen, store);
    }
    // "b" is made anew before its removal is forgotten.
    append(&journal, vec![expecting(task("b", "2"), 4)]).await;
    append(&journal, vec![superseding(horizon(4), &[3, 4])]).await;
    for _ in 0..2 {
        let group = vec![expecting(task("a", "2"), 3), expecting(task("b", "3"), 0)];
        let appended = append(&journal, group).await;
        assert_eq!(appended.outcomes, [lost(0), lost(5)]);
        (store, journal) = reopened(reopen, store);
    }
    let group = vec![expecting(task("a", "2"), 0)];
    assert_eq!(append(&journal, group).await.outcomes, [won(7)]);
}

pub(crate) async fn the_head_is_beyond_what_was_superseded(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    append(&journal, vec![plain(task("a", "1")), plain(task("b", "1"))]).await;
    let group = vec![superseding(task("b", "2"), &[1, 2])];
    append(&journal, group).await;
    assert_eq!(replayed(journal.as_ref()).1, Revision(3));
    let (_store, journal) = reopened(reopen, store);
    assert_eq!(replayed(journal.as_ref()).1, Revision(3));
    assert_eq!(revisions(journal.as_ref()), [3]);
}

pub(crate) async fn a_revision_is_never_issued_twice(reopen: &dyn Reopen) {
    let mut store = reopen.open();
    let mut journal = opened(store.as_ref());
    for round in 0..5 {
        // Without a replay after the reopen, every other time.
        if round % 2 == 0 {
            assert_eq!(replayed(journal.as_ref()).1, Revision(round));
        }
        let appended = append(&journal, vec![superseding(task("a", "1"), &[round])]).await;
        assert_eq!(appended.outcomes, [won(round + 1)]);
        (store, journal) = reopened(reopen, store);
    }
}

pub(crate) async fn namespaces_are_independent_and_listed(reopen: &dyn Reopen) {
    let store = reopen.open();
    assert_eq!(store.namespaces().unwrap(), []);
    let names = ["a", "b", "heads", &"x".repeat(128)].map(namespace);
    let journals = names.clone().map(|name| store.open(&name).unwrap());
    for (number, journal) in journals.iter().enumerate() {
        let group = vec![expecting(task("t", "q"), 0); number + 1];
        assert_eq!(append(journal, group).await.outcomes[0], won(1));
    }
    append(&journals[1], vec![superseding(task("t", "r"), &[1])]).await;
    assert_eq!(revisions(journals[0].as_ref()), [1]);
    assert_eq!(revisions(journals[1].as_ref()), [2]);
    assert_eq!(store.namespaces().unwrap(), names);
    store.close().unwrap();
    let store = reopen.open();
    assert_eq!(store.namespaces().unwrap(), names);
    let journal = store.open(&names[1]).unwrap();
    assert_eq!(replayed(journal.as_ref()).1, Revision(2));
}

pub(crate) async fn a_dropped_future_still_commits(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    for _ in 0..10 {
        drop(journal.append(vec![plain(task("a", "1"))]));
    }
    let next = append(&journal, vec![expecting(task("a", "2"), 10)]).await;
    assert_eq!(next.outcomes, [won(11)]);
    drop(journal.append(vec![plain(task("a", "3"))]));
    let (_store, journal) = reopened(reopen, store);
    assert_eq!(replayed(journal.as_ref()).1, Revision(12));
}

pub(crate) async fn an_empty_group_is_answered(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    assert!(append(&journal, Vec::new()).await.committed.is_empty());
}

pub(crate) async fn a_closed_store_refuses(reopen: &dyn Reopen) {
    let store = reopen.open();
    let journal = opened(store.as_ref());
    store.close().unwrap();
    store.close().unwrap();
    let refused = journal.append(vec![plain(task("a", "1"))]).await;
    assert!(matches!(refused, Err(super::AppendError::Refused(_))));
    let store = reopen.open();
    assert!(revisions(opened(store.as_ref()).as_ref()).is_empty());
}

pub(crate) async fn the_epoch_stays(reopen: &dyn Reopen) {
    let store = reopen.open();
    let epoch = store.epoch();
    assert_ne!(epoch, Uid::default());
    store.close().unwrap();
    assert_eq!(reopen.open().epoch(), epoch);
}
