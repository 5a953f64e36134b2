//! Walking a table from a cursor to the head in parts.

use std::hash::Hash;

use crate::domain::{
    Revision,
    table::{Content, Place, RevisionTable},
};

/// A row that does not concern a watch counts so many bytes, so that the mirror is not held for
/// long.
const LOOK: usize = 64;

/// Gives what changed behind the mark to `take`, which says how many bytes it took, until `room`
/// is used up. True: the walk has met the head.
///
/// Rows that change while a walk is between parts move to its end and are met again there.
pub(super) fn walk<K: Clone + Eq + Hash, V, T>(
    table: &RevisionTable<K, V, T>,
    mark: &mut Place,
    room: &mut usize,
    mut take: impl FnMut(Revision, &K, Content<'_, V, T>) -> usize,
) -> bool {
    for (place, key, content) in table.changes_behind(*mark) {
        if *room == 0 {
            return false;
        }
        *room = room.saturating_sub(take(place.revision(), key, content).max(LOOK));
        *mark = place;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_in_parts_sees_every_row_and_what_changes_meanwhile_again() {
        let mut table: RevisionTable<&str, u32> = RevisionTable::new();
        for (key, revision) in [("a", 1), ("b", 2), ("c", 2), ("d", 3)] {
            table.put(key, 0, Revision(revision));
        }
        let mut mark = Place::after(Revision::ZERO);
        let mut seen = Vec::new();
        let mut part = |table: &RevisionTable<&'static str, u32>, seen: &mut Vec<String>| {
            let mut room = 2 * LOOK;
            walk(table, &mut mark, &mut room, |revision, key, _| {
                seen.push(format!("{key}@{revision}"));
                1
            })
        };
        assert!(!part(&table, &mut seen));
        table.put("a", 1, Revision(4));
        assert!(!part(&table, &mut seen));
        assert!(part(&table, &mut seen));
        assert!(part(&table, &mut seen));
        assert_eq!(seen, ["a@1", "b@2", "c@2", "d@3", "a@4"]);
    }
}
