//! The default journal: embedded, durable, for one process, on fjall.
//!
//! fjall is used as a log that can forget: one keyspace per namespace whose keys are revisions and
//! whose values are entries, small neighbours of one group together. What is superseded is removed
//! in the batch that supersedes it: its record, or in a block by a mark in the keyspace `marks`. A
//! keyspace `heads` holds each namespace's head, written in every batch, so that a revision is
//! never issued twice whatever was deleted.
//!
//! - `folder`: the data folder: its lock, format and epoch
//! - `verify`: fjall's journal files are looked through before fjall opens them, and what is torn
//!   is cut off; `batches`: how they are read
//! - `namespace`: one namespace: from groups to records
//! - `reading`: one namespace: from records to entries
//! - `block`: how entries lie in records
//! - `blocks`: what is known of a namespace's blocks, and when one is written anew
//! - `commit`: the thread that writes what all namespaces queued, in one batch with one sync;
//!   `syncing`: and when it syncs where that is not at each
//! - `space`: refuses what the disk has no room for
//!
//! Known limit of fjall 3.1: a commit may wait 0.1 s where its journal file changes.

mod batches;
mod block;
mod blocks;
mod commit;
#[cfg(test)]
mod damage_tests;
mod folder;
#[cfg(test)]
mod history_tests;
mod namespace;
mod reading;
mod space;
#[cfg(test)]
mod space_tests;
mod syncing;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::{BlockSizePolicy, FilterPolicy},
};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

pub use self::folder::Left;
use self::{
    commit::Queue,
    folder::Folder,
    namespace::{Keyspaces, Namespace},
    space::Space,
};
use super::{
    AppendError, AppendFuture, Committed, Draft, Durability, Journal, OpenError, ReadFuture,
    ReadManyFuture, Store, Usage, index::EntityKeys,
};
use crate::{
    domain::{Epoch, NamespaceId, Revision},
    runtime::{Registry, blocking},
};

/// Keyspaces of the heads and marks. No namespace can have them: theirs begin with [`PREFIX`].
const HEADS: &str = "heads";
const MARKS: &str = "marks";
const PREFIX: &str = "n.";

/// Blocks are read once, at replay, front to back, and large values are cached by whoever reads
/// them back; the cache only has to hold the blocks in hand.
const CACHE_BYTES: u64 = 2 << 20;
/// Large blocks of fjall's tables suit the same reading, and make the index of a table small.
const BLOCK_BYTES: u32 = 32 << 10;
/// What a namespace keeps in memory before it becomes a table: bounds the memory of an idle server
/// and how much a start reads back; smaller ones cost more compaction.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Heads are few and small; the journal files they hold back go when this is flushed.
const HEADS_MEMTABLE_BYTES: u64 = 1 << 20;
/// Marks are small, and mostly gone soon.
const MARKS_MEMTABLE_BYTES: u64 = 4 << 20;
/// Journal files kept for namespaces that have not flushed: all of it is read at a start. The
/// least that fjall takes.
const JOURNAL_BYTES: u64 = 64 << 20;
/// One flushes while the other compacts.
const WORKERS: usize = 2;
/// Open tables; the usual limit of a process is 1,024 files, and connections need them more.
const OPEN_FILES: usize = 64;

/// How long the disk may take for a group. Where fjall cannot write what it has in memory, having
/// taken more than it should, it waits for ever.
const COMMIT_WITHIN: Duration = Duration::from_secs(60);
/// In how many parts that time is counted: of one in which the process was frozen, as with its whole
/// machine, only that part is used up.
const COMMIT_PARTS: u32 = 60;

/// How a data folder is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalOptions {
    /// When an append is answered.
    pub durability: Durability,
    /// Bytes that stay free on the disk: see [`Journal::shortage`]. 0: it is written until it is
    /// full, and then fails.
    pub disk_reserve: u64,
}

/// All journals in one data folder.
#[derive(Debug)]
pub struct LocalStore {
    epoch: Epoch,
    path: String,
    durability: Durability,
    space: Arc<Space>,
    queue: Arc<Queue>,
    opened: Mutex<Option<Opened>>,
}

/// What [`Store::close`] lets go of. Nothing else keeps a handle to fjall for longer than a call:
/// any handle would keep the folder locked.
struct Opened {
    namespaces: BTreeMap<NamespaceId, Arc<Namespace>>,
    keys: EntityKeys,
    heads: Keyspace,
    marks: Keyspace,
    thread: commit::Thread,
    database: Database,
    /// It is noted in the folder, and no longer once it was closed in order.
    in_use: bool,
    // Last, so that it is unlocked last.
    folder: Folder,
}

/// The journal of one namespace of a [`LocalStore`].
#[derive(Debug)]
struct LocalJournal {
    path: String,
    queue: Arc<Queue>,
    space: Arc<Space>,
    namespace: Weak<Namespace>,
}

impl LocalStore {
    /// Opens a data folder, making it where there is none; its parent must exist. Blocks while
    /// fjall reads back what it had not made into tables. Nothing is kept free on the disk.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, OpenError> {
        let options = LocalOptions {
            durability,
            ..LocalOptions::default()
        };
        Self::open_with(path, options)
    }

    /// The same with all options.
    pub fn open_with(path: &Path, options: LocalOptions) -> Result<Self, OpenError> {
        Self::open_in(path, options, &Registry::default())
    }

    /// The same; its thread is one of `jobs`.
    pub fn open_in(path: &Path, options: LocalOptions, jobs: &Registry) -> Result<Self, OpenError> {
        Self::open_folder(Folder::claim(path)?, options, true, jobs)
    }

    /// Makes a data folder, where nothing is, that cannot be opened until
    /// [`finish_restore`](Self::finish_restore).
    pub(in crate::journal) fn create_for_restore(
        path: &Path,
        options: LocalOptions,
    ) -> Result<Self, OpenError> {
        Self::open_folder(
            Folder::claim_empty(path)?,
            options,
            true,
            &Registry::default(),
        )
    }

    /// Closes what was restored in order; from then on it can be opened.
    pub(in crate::journal) fn finish_restore(self) -> Result<(), OpenError> {
        self.close()?;
        folder::finish_restore(Path::new(&self.path))
    }

    /// Opens a data folder that stands, to look at it: its epoch stays, and that it was not closed
    /// in order stays noted. Says how it was left.
    pub fn inspect(path: &Path) -> Result<(Self, Left), OpenError> {
        let folder = Folder::claim_standing(path)?;
        let left = folder.left()?;
        let jobs = Registry::default();
        let store = Self::open_folder(folder, LocalOptions::default(), false, &jobs)?;
        Ok((store, left))
    }

    fn open_folder(
        mut folder: Folder,
        options: LocalOptions,
        in_use: bool,
        jobs: &Registry,
    ) -> Result<Self, OpenError> {
        let LocalOptions {
            durability,
            disk_reserve,
        } = options;
        if !folder.journal().exists() {
            // Made under another name: where the folder of that name stands, it is complete.
            let unfinished = folder.unfinished_journal()?;
            drop(open_database(&unfinished).map_err(|error| folder.fjall(&error))?);
            folder.finish_journal()?;
        }
        verify::journal_files(&folder, folder.left()?)?;
        // Not before: whoever tries again after a refusal must be refused again.
        if in_use {
            folder.take_up(durability)?;
        }
        let database = open_database(&folder.journal()).map_err(|error| folder.fjall(&error))?;
        let heads = database.keyspace(HEADS, || keyspace_options(HEADS_MEMTABLE_BYTES));
        let heads = heads.map_err(|error| folder.fjall(&error))?;
        let marks = database.keyspace(MARKS, || keyspace_options(MARKS_MEMTABLE_BYTES));
        let marks = marks.map_err(|error| folder.fjall(&error))?;
        // What a killed process wrote and did not sync is read back, and must not be lost once
        // somebody has seen it.
        let persisted = database.persist(PersistMode::SyncAll);
        persisted.map_err(|error| folder.fjall(&error))?;

        let queue = Arc::new(Queue::default());
        let thread = commit::start(Arc::clone(&queue), database.clone(), durability, jobs);
        let thread = thread.map_err(|error| folder.io("start the journal's thread", &error))?;
        Ok(Self {
            epoch: folder.epoch(),
            path: folder.name(),
            durability,
            space: Arc::new(Space::new(folder.path(), disk_reserve)),
            queue,
            opened: Mutex::new(Some(Opened {
                namespaces: BTreeMap::new(),
                keys: EntityKeys::default(),
                heads,
                marks,
                thread,
                database,
                in_use,
                folder,
            })),
        })
    }

    /// For a restore: the next entry of the namespace gets the revision after `head`.
    pub(in crate::journal) fn advance(
        &self,
        id: &NamespaceId,
        head: Revision,
    ) -> Result<(), OpenError> {
        let namespace = self.namespace(id)?;
        namespace.advance(head)
    }

    fn namespace(&self, id: &NamespaceId) -> Result<Arc<Namespace>, OpenError> {
        let mut opened = self.opened.lock();
        let opened = opened.as_mut().ok_or_else(|| closed(&self.path))?;
        if let Some(namespace) = opened.namespaces.get(id) {
            return Ok(Arc::clone(namespace));
        }
        let keyspace = opened.database.keyspace(&format!("{PREFIX}{id}"), || {
            keyspace_options(MEMTABLE_BYTES)
        });
        let spaces = Keyspaces {
            entries: keyspace.map_err(|error| opened.folder.fjall(&error))?,
            marks: opened.marks.clone(),
            heads: opened.heads.clone(),
        };
        let namespace = Arc::new(Namespace::new(
            id.clone(),
            opened.keys.clone(),
            opened.database.clone(),
            spaces,
        ));
        opened.namespaces.insert(id.clone(), Arc::clone(&namespace));
        Ok(namespace)
    }
}

fn open_database(path: &Path) -> fjall::Result<Database> {
    Database::builder(path)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNAL_BYTES)
        .max_cached_files(Some(OPEN_FILES))
        .worker_threads(WORKERS)
        // The commit thread says how each batch is persisted.
        .manual_journal_persist(true)
        .open()
}

fn keyspace_options(memtable_bytes: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable_bytes)
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        // Filters serve reads by key. There are few, of large values, and keys rise, so that tables
        // hardly overlap: the one that has the key is found without.
        .filter_policy(FilterPolicy::disabled())
        .manual_journal_persist(true)
}

fn closed(path: &str) -> OpenError {
    OpenError::Io {
        path: path.to_owned(),
        problem: "was closed: open it again".into(),
    }
}

impl Store for LocalStore {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn usage(&self) -> Usage {
        // Not in the lock, which a replay may hold.
        let database = self
            .opened
            .lock()
            .as_ref()
            .map(|opened| opened.database.clone());
        Usage {
            disk_free: self.space.free(),
            bytes: database.and_then(|database| database.disk_space().ok()),
        }
    }

    fn namespaces(&self) -> Result<Vec<NamespaceId>, OpenError> {
        let opened = self.opened.lock();
        let opened = opened.as_ref().ok_or_else(|| closed(&self.path))?;
        let keyspaces = opened.database.list_keyspace_names();
        let names = keyspaces
            .iter()
            .filter_map(|name| name.strip_prefix(PREFIX));
        let mut namespaces: Vec<_> = names.map(NamespaceId::trusted).collect();
        namespaces.sort();
        Ok(namespaces)
    }

    fn open(&self, id: &NamespaceId) -> Result<Arc<dyn Journal>, OpenError> {
        let namespace = self.namespace(id)?;
        Ok(Arc::new(LocalJournal {
            path: self.path.clone(),
            queue: Arc::clone(&self.queue),
            space: Arc::clone(&self.space),
            namespace: Arc::downgrade(&namespace),
        }))
    }

    /// Writes what is queued. A replay that runs meanwhile keeps the folder until it ends.
    fn close(&self) -> Result<(), OpenError> {
        let Some(opened) = self.opened.lock().take() else {
            return Ok(());
        };
        self.queue
            .stop(format!("data folder {} was closed", self.path));
        let panicked = !matches!(opened.thread.join(), Ok(Ok(())));
        let persisted = opened.database.persist(PersistMode::SyncAll);
        persisted.map_err(|error| opened.folder.fjall(&error))?;
        if opened.in_use && !panicked && !self.queue.has_failed() {
            opened.folder.put_down()?;
        }
        if panicked {
            return Err(OpenError::Io {
                path: self.path.clone(),
                problem: "the thread that writes the journal panicked: what it said is in the log"
                    .into(),
            });
        }
        Ok(())
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the journal was not closed cleanly");
        }
    }
}

/// What comes within so many parts of time; none where it does not.
async fn within<T>(part: Duration, mut coming: impl Future<Output = T> + Unpin) -> Option<T> {
    for _ in 0..COMMIT_PARTS {
        if let Ok(came) = timeout(part, &mut coming).await {
            return Some(came);
        }
    }
    None
}

impl Journal for LocalJournal {
    fn replay(&self, sink: &mut dyn FnMut(Committed)) -> Result<Revision, OpenError> {
        let head = self.replay_while(&mut |committed| {
            sink(committed);
            ControlFlow::Continue(())
        })?;
        Ok(head.expect("the sink never breaks"))
    }

    fn replay_while(
        &self,
        sink: &mut dyn FnMut(Committed) -> ControlFlow<()>,
    ) -> Result<Option<Revision>, OpenError> {
        let namespace = self.namespace.upgrade().ok_or_else(|| closed(&self.path))?;
        namespace.replay(sink)
    }

    fn append(&self, group: Vec<Draft>) -> AppendFuture {
        let (answer, answered) = oneshot::channel();
        let pushed = match self.namespace.upgrade() {
            Some(namespace) => {
                let room = self.space.admit(&group);
                room.and_then(|()| self.queue.push(namespace.job(group, answer)))
            }
            None => Err(self.queue.refusal()),
        };
        let (space, queue) = (Arc::clone(&self.space), Arc::clone(&self.queue));
        Box::pin(async move {
            pushed?;
            let answer = match within(COMMIT_WITHIN / COMMIT_PARTS, answered).await {
                Some(answer) => answer.unwrap_or_else(|_| {
                    Err(AppendError::Unknown(
                        "the thread that writes the journal panicked".into(),
                    ))
                }),
                None => {
                    let reason = format!("the disk did not take it within {COMMIT_WITHIN:?}");
                    queue.fail(format!(
                        "{reason}, and the journal takes nothing more: free space or repair the disk, then restart"
                    ));
                    Err(AppendError::Unknown(reason))
                }
            };
            if let Ok(appended) = &answer {
                space.written(appended.committed.iter().map(|entry| entry.bytes).sum());
            }
            answer
        })
    }

    fn shortage(&self) -> Option<Arc<str>> {
        self.space.shortage()
    }

    fn read(&self, revision: Revision) -> ReadFuture {
        let read = self.read_many(vec![revision]);
        Box::pin(async move { Ok(read.await?.pop().flatten()) })
    }

    /// In a thread of its own: what is not in memory any more comes from the disk, which may take
    /// its time. What handing it over costs is little beside that.
    fn read_many(&self, revisions: Vec<Revision>) -> ReadManyFuture {
        let (namespace, path) = (self.namespace.clone(), self.path.clone());
        Box::pin(async move {
            let read = blocking("read entries back", move || {
                let namespace = namespace.upgrade().ok_or_else(|| closed(&path))?;
                namespace.read(&revisions)
            });
            read.await.unwrap_or_else(|error| {
                Err(OpenError::Io {
                    path: String::new(),
                    problem: format!("reading entries back failed: {error}"),
                })
            })
        })
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("namespaces", &self.namespaces)
            .finish_non_exhaustive()
    }
}
