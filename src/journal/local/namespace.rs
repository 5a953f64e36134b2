//! The keyspace of one namespace: reading it all, and turning a group into writes.

use std::sync::Arc;

use bytes::Bytes;
use fjall::{Database, Keyspace, OwnedWriteBatch, Readable, UserValue};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::commit::Job;
use crate::{
    domain::{Entry, NamespaceId, Revision},
    journal::{
        AppendError, Appended, Committed, Draft, OpenError,
        index::{EntityKey, EntityKeys, Index},
    },
};

/// A namespace's keyspace and index.
pub(super) struct Namespace {
    id: NamespaceId,
    keys: EntityKeys,
    database: Database,
    keyspace: Keyspace,
    heads: Keyspace,
    tail: Mutex<Tail>,
}

#[derive(Debug, Default)]
struct Tail {
    /// Built by the first replay, or by the first append that comes without one.
    index: Option<Index>,
    /// The last batch it was part of.
    batch: u64,
}

/// Drafts, encoded where they were made so that the commit thread need not.
pub(super) type Group = Vec<Encoded>;

/// A draft and its bytes.
#[derive(Debug)]
pub(super) struct Encoded {
    draft: Draft,
    entity: EntityKey,
    bytes: UserValue,
}

impl Namespace {
    pub(super) fn new(
        id: NamespaceId,
        keys: EntityKeys,
        database: Database,
        keyspace: Keyspace,
        heads: Keyspace,
    ) -> Self {
        Self {
            id,
            keys,
            database,
            keyspace,
            heads,
            tail: Mutex::default(),
        }
    }

    /// Makes a group ready for the queue.
    pub(super) fn job(
        self: Arc<Self>,
        group: Vec<Draft>,
        answer: oneshot::Sender<Result<Appended, AppendError>>,
    ) -> Job {
        let mut buffer = Vec::new();
        let encoded = group.into_iter().map(|draft| {
            buffer.clear();
            draft.entry.encode(&mut buffer);
            Encoded {
                entity: self.keys.of(&draft.entry),
                bytes: UserValue::from(buffer.as_slice()),
                draft,
            }
        });
        Job {
            group: encoded.collect(),
            answer,
            namespace: Arc::clone(&self),
        }
    }

    /// Reads everything, in order, in this thread.
    pub(super) fn replay(&self, sink: &mut dyn FnMut(Committed)) -> Result<Revision, OpenError> {
        let index = self.scan(sink)?;
        let head = index.head();
        // Where there is an index it is newer: it has taken in what was appended meanwhile. Where
        // there is none nothing was appended.
        self.tail.lock().index.get_or_insert(index);
        Ok(head)
    }

    fn scan(&self, sink: &mut dyn FnMut(Committed)) -> Result<Index, OpenError> {
        let mut index = Index::default();
        // One snapshot, so that entries and head belong together.
        let snapshot = self.database.snapshot();
        for guard in snapshot.iter(&self.keyspace) {
            let (key, value) = guard
                .into_inner()
                .map_err(|error| self.damaged(index.head().next(), &error))?;
            let revision = self.revision(&key, index.head())?;
            let committed = self.committed(revision, &value)?;
            index.learn(self.keys.of(&committed.entry), &committed.entry, revision);
            sink(committed);
        }
        let head = snapshot.get(&self.heads, self.id.as_str());
        if let Some(head) = head.map_err(|error| self.damaged(index.head(), &error))? {
            index.learn_head(self.revision(&head, index.head())?);
        }
        Ok(index)
    }

    /// Reads one entry, in this thread.
    pub(super) fn read(&self, revision: Revision) -> Result<Option<Committed>, OpenError> {
        let value = self.keyspace.get(revision.0.to_be_bytes());
        let value = value.map_err(|error| self.damaged(revision, &error))?;
        value
            .map(|value| self.committed(revision, &value))
            .transpose()
    }

    /// Copied, so that what is kept of an entry does not keep its block of the table.
    fn committed(&self, revision: Revision, value: &UserValue) -> Result<Committed, OpenError> {
        let entry = Entry::decode(Bytes::copy_from_slice(value))
            .map_err(|error| self.damaged(revision, &error))?;
        Ok(Committed {
            revision,
            entry,
            bytes: value.len(),
        })
    }

    fn revision(&self, bytes: &[u8], after: Revision) -> Result<Revision, OpenError> {
        let bytes = bytes.try_into().map_err(|_| {
            self.damaged(
                after.next(),
                &format_args!("a revision has 8 bytes, found {}", bytes.len()),
            )
        })?;
        Ok(Revision(u64::from_be_bytes(bytes)))
    }

    fn damaged(&self, revision: Revision, problem: &dyn std::fmt::Display) -> OpenError {
        OpenError::Damaged {
            namespace: self.id.to_string(),
            revision,
            problem: problem.to_string(),
        }
    }

    /// The next entry gets the revision after `head`, or a later one. Where nothing is appended
    /// meanwhile.
    pub(super) fn advance(&self, head: Revision) -> Result<(), OpenError> {
        let mut tail = self.tail.lock();
        let index = match &mut tail.index {
            Some(index) => index,
            empty => empty.insert(self.scan(&mut |_| {})?),
        };
        index.learn_head(head);
        let written = self
            .heads
            .insert(self.id.as_str(), index.head().0.to_be_bytes());
        written.map_err(|error| self.damaged(head, &error))
    }

    /// Joins a batch; false where it is part of it already.
    pub(super) fn enter(&self, batch: u64) -> bool {
        let mut tail = self.tail.lock();
        let entered = tail.batch != batch;
        tail.batch = batch;
        entered
    }

    /// Adds a group to a batch. The index is ahead of the disk until the batch is committed;
    /// where that fails nothing is asked of it any more.
    pub(super) fn plan(
        &self,
        group: Group,
        batch: &mut OwnedWriteBatch,
        heads: &Keyspace,
    ) -> Result<Appended, OpenError> {
        let mut tail = self.tail.lock();
        let index = match &mut tail.index {
            Some(index) => index,
            empty => empty.insert(self.scan(&mut |_| {})?),
        };
        let before = index.head();
        let mut puts: Vec<Option<UserValue>> = Vec::with_capacity(group.len());
        let mut appended = Appended {
            committed: Vec::with_capacity(group.len()),
            outcomes: Vec::with_capacity(group.len()),
        };
        for Encoded {
            draft,
            entity,
            bytes,
        } in group
        {
            let outcome = index.admit(entity, &draft, |old| {
                match old.0.checked_sub(before.0 + 1) {
                    // It is of this very group: never written instead of written and removed.
                    Some(place) => puts[place as usize] = None,
                    None => batch.remove(&self.keyspace, old.0.to_be_bytes()),
                }
            });
            appended.outcomes.push(outcome);
            if let Ok(revision) = outcome {
                appended.committed.push(Committed {
                    revision,
                    entry: draft.entry,
                    bytes: bytes.len(),
                });
                puts.push(Some(bytes));
            }
        }
        for (revision, put) in (before.0 + 1..).zip(puts) {
            if let Some(bytes) = put {
                batch.insert(&self.keyspace, revision.to_be_bytes(), bytes);
            }
        }
        if index.head() > before {
            batch.insert(heads, self.id.as_str(), index.head().0.to_be_bytes());
        }
        Ok(appended)
    }
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
