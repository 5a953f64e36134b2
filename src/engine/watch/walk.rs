//! Walking a table from a cursor to the head in parts.

use std::hash::Hash;

use crate::domain::{
    Revision,
    table::{Content, RevisionTable},
};

/// How far a walk has come: behind one row of a revision, or behind a whole revision.
#[derive(Clone, Debug)]
pub(super) struct Mark<K> {
    revision: Revision,
    key: Option<K>,
}

impl<K> Mark<K> {
    /// The revision it stands at.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Everything after a revision is still to come.
    pub(super) fn after(revision: Revision) -> Self {
        Self {
            revision,
            key: None,
        }
    }
}

/// A row that does not concern a watch counts so many bytes, so that the mirror is not held for
/// long.
const LOOK: usize = 64;

/// Gives what changed behind the mark to `take`, which says how many bytes it took, until `room`
/// is used up. True: the walk has met the head.
///
/// Rows that change while a walk is between parts move to its end and are met again there.
pub(super) fn walk<K: Clone + Ord + Hash, V, T>(
    table: &RevisionTable<K, V, T>,
    mark: &mut Mark<K>,
    room: &mut usize,
    mut take: impl FnMut(Revision, &K, Content<'_, V, T>) -> usize,
) -> bool {
    let rest: Box<dyn Iterator<Item = _>> = match &mark.key {
        Some(key) => Box::new(table.changes_after_row(mark.revision, key.clone())),
        None => Box::new(table.changes_after(mark.revision)),
    };
    let mut last = None;
    let mut met = true;
    for (revision, key, content) in rest {
        if *room == 0 {
            met = false;
            break;
        }
        *room = room.saturating_sub(take(revision, key, content).max(LOOK));
        last = Some((revision, key));
    }
    if let Some((revision, key)) = last {
        *mark = Mark {
            revision,
            key: Some(key.clone()),
        };
    }
    met
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
        let mut mark = Mark::after(Revision::ZERO);
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
