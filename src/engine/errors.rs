//! What the mirror holds of error groups: their records, in the order of changes and of fingerprints.
//!
//! Groups are never removed, and there are at most [`MAX_ERROR_GROUPS`] and the one for all others.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use crate::domain::{
    Revision,
    failure::{Fingerprint, Group, Kind},
    limits::MAX_ERROR_GROUPS,
    table::RevisionTable,
};

/// A group as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorRow {
    /// The record.
    pub group: Arc<Group>,
    /// Revision of the record.
    pub revision: Revision,
}

/// The error groups of a namespace.
#[derive(Debug, Default, PartialEq)]
pub struct ErrorGroups {
    table: RevisionTable<Fingerprint, Arc<Group>>,
    order: BTreeSet<Fingerprint>,
}

impl ErrorGroups {
    /// One group.
    #[must_use]
    pub fn get(&self, fingerprint: Fingerprint) -> Option<ErrorRow> {
        let row = self.table.row(&fingerprint)?;
        Some(ErrorRow {
            group: self.table.get(&fingerprint)?.clone(),
            revision: row.revision,
        })
    }

    /// The groups by their last change.
    #[must_use]
    pub fn table(&self) -> &RevisionTable<Fingerprint, Arc<Group>> {
        &self.table
    }

    /// The groups by their fingerprints.
    pub fn after(
        &self,
        fingerprint: Bound<Fingerprint>,
    ) -> impl Iterator<Item = (Fingerprint, ErrorRow)> {
        let fingerprints = self.order.range((fingerprint, Bound::Unbounded));
        fingerprints.filter_map(|one| Some((*one, self.get(*one)?)))
    }

    /// How many there are, the one for all others included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether there is room for so many more.
    #[must_use]
    pub fn has_room_for(&self, more: usize) -> bool {
        let other = self.order.contains(&Kind::other().fingerprint());
        self.order.len() - usize::from(other) + more <= MAX_ERROR_GROUPS
    }

    /// Folds a group's record.
    pub fn apply(&mut self, revision: Revision, group: Group) -> Fingerprint {
        let fingerprint = group.fingerprint();
        self.order.insert(fingerprint);
        self.table.put(fingerprint, Arc::new(group), revision);
        fingerprint
    }
}
