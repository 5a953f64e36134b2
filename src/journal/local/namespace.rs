//! One namespace: turning groups into records. `reading` is the other half.

use std::sync::Arc;

use fjall::{Database, Keyspace, OwnedWriteBatch};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    block::{Packer, Record, Stored, repack},
    blocks::{Blocks, Change},
    commit::Job,
};
use crate::{
    domain::{NamespaceId, Revision},
    journal::{
        AppendError, Appended, Committed, Conflict, Draft, OpenError,
        index::{EntityKey, EntityKeys, Index},
    },
};

/// Blocks that any group may write anew; one that supersedes may write one more for each entry
/// that it supersedes, so that they never become more than can be done.
const REWRITES: usize = 16;

/// A namespace's records and what is known of them.
pub(super) struct Namespace {
    pub(super) id: NamespaceId,
    pub(super) keys: EntityKeys,
    pub(super) database: Database,
    pub(super) spaces: Keyspaces,
    pub(super) tail: Mutex<Tail>,
}

/// Where a namespace's records are.
pub(super) struct Keyspaces {
    /// Entries and blocks, of this namespace alone.
    pub(super) entries: Keyspace,
    /// Which entries of blocks are superseded, of all namespaces.
    pub(super) marks: Keyspace,
    /// The heads of all namespaces.
    pub(super) heads: Keyspace,
}

#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Built by the first replay, or by the first append or reading that comes without one.
    pub(super) known: Option<Known>,
    /// The last batch it was part of.
    batch: u64,
}

/// What is kept in memory of a namespace's records. It is ahead of the disk until the batch is
/// committed; where that fails nothing is asked of it any more.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) index: Index,
    pub(super) blocks: Blocks,
}

/// Drafts, encoded where they were made so that the commit thread need not.
#[derive(Debug)]
pub(super) struct Group {
    drafts: Vec<(EntityKey, Draft)>,
    /// How long each is.
    bytes: Vec<usize>,
    /// All of them, as they are written where none is lost.
    records: Vec<Record>,
}

impl Namespace {
    pub(super) fn new(
        id: NamespaceId,
        keys: EntityKeys,
        database: Database,
        spaces: Keyspaces,
    ) -> Self {
        Self {
            id,
            keys,
            database,
            spaces,
            tail: Mutex::default(),
        }
    }

    /// Makes a group ready for the queue.
    pub(super) fn job(
        self: Arc<Self>,
        group: Vec<Draft>,
        answer: oneshot::Sender<Result<Appended, AppendError>>,
    ) -> Job {
        let mut packer = Packer::default();
        let mut bytes = Vec::with_capacity(group.len());
        let drafts = group.into_iter().map(|draft| {
            bytes.push(packer.push(|buffer| draft.entry.encode(buffer)));
            (self.keys.of(&draft.entry), draft)
        });
        let drafts = drafts.collect();
        Job {
            group: Group {
                drafts,
                bytes,
                records: packer.finish(),
            },
            answer,
            namespace: Arc::clone(&self),
        }
    }

    /// The next entry gets the revision after `head`, or a later one. Where nothing is appended
    /// meanwhile.
    pub(super) fn advance(&self, head: Revision) -> Result<(), OpenError> {
        let mut tail = self.tail.lock();
        let index = &mut self.known(&mut tail)?.index;
        index.learn_head(head);
        let head = index.head();
        let written = self
            .spaces
            .heads
            .insert(self.id.as_str(), head.0.to_be_bytes());
        written.map_err(|error| self.damaged(head, &error))
    }

    /// Joins a batch; false where it is part of it already.
    pub(super) fn enter(&self, batch: u64) -> bool {
        let mut tail = self.tail.lock();
        let entered = tail.batch != batch;
        tail.batch = batch;
        entered
    }

    /// Adds a group to a batch.
    pub(super) fn plan(
        &self,
        group: Group,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Appended, OpenError> {
        let mut tail = self.tail.lock();
        let known = self.known(&mut tail)?;
        known.blocks.begin();
        let before = known.index.head();
        let mut superseded = Vec::new();
        // Of this very group: never written instead of written and removed.
        let mut stillborn = Vec::new();
        let mut appended = Appended {
            committed: Vec::with_capacity(group.drafts.len()),
            outcomes: Vec::with_capacity(group.drafts.len()),
        };
        for ((entity, draft), bytes) in group.drafts.into_iter().zip(group.bytes) {
            let outcome = known.index.admit(entity, &draft, |old| {
                if old > before {
                    stillborn.push(old);
                } else {
                    superseded.push(old);
                }
            });
            appended.outcomes.push(outcome);
            if let Ok(revision) = outcome {
                appended.committed.push(Committed {
                    revision,
                    entry: draft.entry,
                    bytes,
                });
            }
        }

        let most = REWRITES + superseded.len();
        known
            .blocks
            .supersede(superseded, |old| self.remove(old.0, batch));
        self.rewrite(&mut known.blocks, most, batch);
        known.blocks.settle(|change| match change {
            Change::Remove { key, marked } => {
                self.remove(key, batch);
                if marked {
                    batch.remove(&self.spaces.marks, self.mark(key));
                }
            }
            Change::Mark { key, bitmap } => {
                batch.insert(&self.spaces.marks, self.mark(key), bitmap);
            }
        });
        stillborn.sort_unstable();
        let records = number(group.records, &appended.outcomes, &stillborn, before.next());
        for (key, record) in records {
            self.insert(key, record, &mut known.blocks, batch);
        }
        if known.index.head() > before {
            let head = known.index.head().0.to_be_bytes();
            batch.insert(&self.spaces.heads, self.id.as_str(), head);
        }
        Ok(appended)
    }

    /// Writes blocks anew that are mostly dead, `most` of them. One that cannot be read stays as it
    /// is: the group it would have been written with is not to blame.
    fn rewrite(&self, blocks: &mut Blocks, most: usize, batch: &mut OwnedWriteBatch) {
        for _ in 0..most {
            let Some(key) = blocks.next_wasteful() else {
                return;
            };
            let records = match self.what_lives(key, blocks) {
                Ok(records) => records,
                Err(problem) => {
                    tracing::error!(
                        namespace = %self.id, revision = key, error = problem,
                        "a block of the journal cannot be read and is left as it is: restore the data folder from a backup"
                    );
                    continue;
                }
            };
            if !records.iter().any(|(under, _)| *under == key) {
                self.remove(key, batch);
            }
            let mut lengths = None;
            for (under, record) in records {
                batch.insert(&self.spaces.entries, under.to_be_bytes(), record.value);
                lengths = record.lengths;
            }
            if blocks.rewritten(key, lengths) {
                batch.remove(&self.spaces.marks, self.mark(key));
            }
        }
    }

    /// Records of what lives in a block.
    fn what_lives(&self, key: u64, blocks: &Blocks) -> Result<Vec<(u64, Record)>, String> {
        let value = self.spaces.entries.get(key.to_be_bytes());
        let value = value.map_err(|error| error.to_string())?;
        let stored = Stored::read(value.as_ref().ok_or("it is missing")?)?;
        let lengths = blocks.lengths(key);
        let stored: Vec<_> = stored.entries().collect();
        if stored.len() != lengths.len() {
            return Err(format!(
                "it has {} places, not {}",
                stored.len(),
                lengths.len()
            ));
        }
        let living = stored.into_iter().zip(lengths);
        let living = living.map(|(entry, &length)| match (entry, length) {
            (_, 0) => Ok(None),
            (Some(entry), length) if entry.len() == usize::from(length) => Ok(Some(entry)),
            _ => Err("one of its entries is missing"),
        });
        Ok(repack(key, &living.collect::<Result<Vec<_>, _>>()?))
    }

    fn insert(&self, key: u64, record: Record, blocks: &mut Blocks, batch: &mut OwnedWriteBatch) {
        batch.insert(&self.spaces.entries, key.to_be_bytes(), record.value);
        if let Some(lengths) = record.lengths {
            let stored = lengths.iter().map(|&length| u32::from(length)).sum();
            blocks.insert(key, lengths, stored, false);
        }
    }

    fn remove(&self, key: u64, batch: &mut OwnedWriteBatch) {
        batch.remove(&self.spaces.entries, key.to_be_bytes());
    }

    /// Where the marks of this namespace begin. No name has a byte 0 in it.
    pub(super) fn marks(&self) -> Vec<u8> {
        let name = self.id.as_str().as_bytes();
        let mut key = Vec::with_capacity(name.len() + 9);
        key.extend_from_slice(name);
        key.push(0);
        key
    }

    fn mark(&self, block: u64) -> Vec<u8> {
        let mut key = self.marks();
        key.extend_from_slice(&block.to_be_bytes());
        key
    }
}

/// Gives a group's records their keys, without what was lost or superseded in the group. The latter
/// are in order.
fn number(
    records: Vec<Record>,
    outcomes: &[Result<Revision, Conflict>],
    stillborn: &[Revision],
    first: Revision,
) -> Vec<(u64, Record)> {
    let mut numbered = Vec::with_capacity(records.len());
    let mut outcomes = outcomes.iter();
    let mut next = first.0;
    for record in records {
        let outcomes: Vec<_> = outcomes.by_ref().take(record.places()).collect();
        let key = next;
        next += outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
        let place = stillborn.partition_point(|old| old.0 < key);
        let all_live = stillborn.get(place).is_none_or(|old| old.0 >= next);
        if all_live && outcomes.iter().all(|outcome| outcome.is_ok()) {
            numbered.push((key, record));
        } else {
            let entries = outcomes.iter().zip(record.entries());
            let entries: Vec<_> = entries
                .filter_map(|(outcome, entry)| Some((outcome.ok()?, entry)))
                .map(|(revision, entry)| {
                    let superseded = stillborn.binary_search(&revision).is_ok();
                    (!superseded).then_some(entry)
                })
                .collect();
            numbered.extend(repack(key, &entries));
        }
    }
    numbered
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
