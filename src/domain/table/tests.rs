use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;

type Table = RevisionTable<Arc<str>, u32, &'static str>;

fn key(text: &str) -> Arc<str> {
    text.into()
}

fn seen(changes: impl Iterator<Item = (Revision, Arc<str>, bool)>) -> Vec<(u64, String, bool)> {
    changes
        .map(|(revision, key, live)| (revision.0, key.to_string(), live))
        .collect()
}

fn after(table: &Table, revision: u64) -> Vec<(u64, String, bool)> {
    let changes = table.changes_after(Revision(revision));
    seen(changes.map(|(r, k, c)| (r, k.clone(), matches!(c, Content::Live(_)))))
}

#[test]
fn a_cursor_sees_each_key_once_at_its_last_change() {
    let mut table = Table::new();
    table.put(key("a"), 1, Revision(1));
    table.put(key("b"), 1, Revision(1));
    assert_eq!(table.put(key("a"), 2, Revision(2)), Some(1));
    assert_eq!(table.delete(&key("b"), "gone", Revision(3)), Some(1));
    let all = vec![(2, "a".into(), true), (3, "b".into(), false)];
    assert_eq!(after(&table, 0), all);
    assert_eq!(after(&table, 2), all[1..]);
    assert_eq!(after(&table, 3), []);
    assert_eq!(
        table.row("b").unwrap(),
        Row {
            revision: Revision(3),
            content: Content::Dead(&"gone")
        }
    );
    assert_eq!((table.live_len(), table.tombstones()), (1, 1));
}

#[test]
fn one_revision_can_be_walked_in_parts() {
    let mut table = Table::new();
    for name in ["c", "a", "b"] {
        table.put(key(name), 0, Revision(7));
    }
    let mut place = Place::after(Revision(6));
    let mut names = Vec::new();
    while let Some((found, key, _)) = table.changes_behind(place).next() {
        assert_eq!(found.revision(), Revision(7));
        names.push(key.to_string());
        place = found;
    }
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn a_key_never_held_can_be_deleted_and_forgotten() {
    let mut table = Table::new();
    assert_eq!(table.delete(&key("x"), "", Revision(4)), None);
    assert_eq!(after(&table, 3), [(4, "x".into(), false)]);
    assert_eq!(table.forget(Revision(3)), []);
    assert_eq!(table.forget(Revision(4)), [(key("x"), Revision(4))]);
    assert_eq!(table, Table::new());
    assert_eq!(table.last_revision(), Revision::ZERO);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u32, u64),
    Delete(u8, u64),
    Remove(u8),
    Forget(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8u8, any::<u32>(), 0..20u64).prop_map(|(k, v, r)| Step::Put(k, v, r)),
        3 => (0..8u8, 0..20u64).prop_map(|(k, r)| Step::Delete(k, r)),
        1 => (0..8u8).prop_map(Step::Remove),
        1 => (0..20u64).prop_map(Step::Forget),
    ]
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_naive_model(steps in proptest::collection::vec(step(), 0..60)) {
        let mut table: RevisionTable<u8, u32> = RevisionTable::new();
        let mut model: BTreeMap<u8, (u64, Option<u32>)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(k, v, r) => {
                    let before = model.insert(k, (r, Some(v))).and_then(|row| row.1);
                    prop_assert_eq!(table.put(k, v, Revision(r)), before);
                }
                Step::Delete(k, r) => {
                    let before = model.insert(k, (r, None)).and_then(|row| row.1);
                    prop_assert_eq!(table.delete(&k, (), Revision(r)), before);
                }
                Step::Remove(k) => {
                    let before = model.remove(&k).and_then(|row| row.1);
                    prop_assert_eq!(table.remove(&k), before);
                }
                Step::Forget(up_to) => {
                    let mut gone: Vec<_> = model
                        .iter()
                        .filter(|(_, row)| row.0 <= up_to && row.1.is_none())
                        .map(|(k, row)| (row.0, *k))
                        .collect();
                    gone.sort_unstable();
                    model.retain(|_, row| row.0 > up_to || row.1.is_some());
                    let forgotten = table.forget(Revision(up_to)).into_iter();
                    let mut forgotten: Vec<_> = forgotten.map(|(k, r)| (r.0, k)).collect();
                    prop_assert!(forgotten.is_sorted_by_key(|row| row.0));
                    forgotten.sort_unstable();
                    prop_assert_eq!(forgotten, gone);
                }
            }
            for cursor in 0..20 {
                let mut expected: Vec<_> = model
                    .iter()
                    .filter(|(_, row)| row.0 > cursor)
                    .map(|(k, row)| (row.0, *k, row.1))
                    .collect();
                expected.sort_unstable_by_key(|row| (row.0, row.1));
                let mut found: Vec<_> = table
                    .changes_after(Revision(cursor))
                    .map(|(r, k, content)| match content {
                        Content::Live(v) => (r.0, *k, Some(*v)),
                        Content::Dead(()) => (r.0, *k, None),
                    })
                    .collect();
                prop_assert!(found.is_sorted_by_key(|row| row.0));
                found.sort_unstable_by_key(|row| (row.0, row.1));
                prop_assert_eq!(found, expected);
            }
            let live = model.values().filter(|row| row.1.is_some()).count();
            prop_assert_eq!(table.live_len(), live);
            prop_assert_eq!(table.iter().count(), live);
            prop_assert_eq!(table.tombstones(), model.len() - live);
            prop_assert_eq!(table.dead().count(), model.len() - live);
            let last = model.values().map(|row| row.0).max().unwrap_or(0);
            prop_assert_eq!(table.last_revision(), Revision(last));
        }
    }
}
