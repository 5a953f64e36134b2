//! The journal: the ordered, durable log of committed entries. It is the truth; everything else
//! is folded from it.
//!
//! - `memory`: for tests and simulation
//! - `local`: the default: embedded, durable, one process
//!
//! - [`backup`]: a whole store in one file
//!
//! `conformance` holds what every journal must do; each runs it.

pub mod backup;
#[cfg(test)]
mod conformance;
mod durability;
mod index;
pub mod local;
pub mod memory;

pub use durability::{Durability, WrongDurability};
pub use local::{Left, LocalOptions, LocalStore};
pub use memory::{Fault, Faults, MemoryStore};

use std::{fmt, future::Future, ops::ControlFlow, pin::Pin, sync::Arc};

use crate::domain::{Entry, Epoch, NamespaceId, Revision};

/// An entry to append.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What to append.
    pub entry: Entry,
    /// Compare-and-set: the revision of the entity's last entry, [`Revision::ZERO`] where it has
    /// none. `None` appends whatever stands. A state's value entries do not count: they change
    /// nothing by themselves, and stand right before the delta that is compared.
    pub expect: Option<Revision>,
    /// Earlier entries that this one makes superfluous: they are deleted with its commit or later,
    /// never before; nothing is where its compare-and-set loses. An entity's last entry is
    /// superseded by an entry of the same entity, and only a removal (a removed task, a state that
    /// is not alive, an expired instance, a queue at its defaults) by another's too: the entity is then unknown, as if it
    /// had never been.
    pub supersedes: Vec<Revision>,
}

/// An entry that was committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Its place in the order.
    pub revision: Revision,
    /// What it says.
    pub entry: Entry,
    /// Its size in the journal.
    pub bytes: usize,
}

/// What became of a group of drafts.
#[derive(Debug)]
pub struct Appended {
    /// What is new in the journal, in order: the group's entries and, in a shared journal, those
    /// of others committed before them. Folding exactly these keeps a mirror equal to the journal.
    pub committed: Vec<Committed>,
    /// For each draft its revision, or what stood in the way of its compare-and-set.
    pub outcomes: Vec<Result<Revision, Conflict>>,
}

/// A compare-and-set that lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The revision of the entity's last entry.
    pub found: Revision,
}

/// Why a group was not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing of the group was or will be committed.
    #[error("the journal refused the group: {0}")]
    Refused(String),
    /// Nothing of the group was or will be committed, since the disk has no room for it. The same
    /// group may be taken once there is.
    #[error("{0}")]
    Full(String),
    /// Whether the group is committed cannot be told: all of it, none, or its first entries. The
    /// store takes nothing more until it is opened again and its journals are replayed.
    #[error("the journal failed while writing, whether the group is committed is unknown: {0}")]
    Unknown(String),
}

/// Why a store or journal cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something holds the data folder.
    #[error(
        "data folder {path} is in use by {holder}: stop it or choose another folder with --data"
    )]
    InUse {
        /// The folder.
        path: String,
        /// Who: "process 123", "this process" or "another process".
        holder: String,
    },
    /// Another version of the software wrote the folder.
    #[error(
        "data folder {path} has format {found}, this version reads {expected}: use the version that wrote it, or another folder"
    )]
    Version {
        /// The folder.
        path: String,
        /// Its format.
        found: String,
        /// Ours.
        expected: String,
    },
    /// An entry cannot be read.
    #[error("entry {revision} of namespace {namespace} cannot be read: {problem}")]
    Damaged {
        /// Where.
        namespace: String,
        /// Which.
        revision: Revision,
        /// Why.
        problem: String,
    },
    /// The folder or store failed.
    #[error("data folder {path}: {problem}")]
    Io {
        /// The folder.
        path: String,
        /// What happened.
        problem: String,
    },
}

/// A future that a journal returns.
pub type AppendFuture =
    Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + Send + 'static>>;

/// What a journal returns for a reading.
pub type ReadFuture =
    Pin<Box<dyn Future<Output = Result<Option<Committed>, OpenError>> + Send + 'static>>;

/// What a journal returns for a reading of several.
pub type ReadManyFuture =
    Pin<Box<dyn Future<Output = Result<Vec<Option<Committed>>, OpenError>> + Send + 'static>>;

/// The journal of one namespace.
pub trait Journal: Send + Sync + fmt::Debug + 'static {
    /// Reads everything from the start, in order, in this thread; returns the head. The head may
    /// be beyond the last entry: a revision is never issued twice.
    fn replay(&self, sink: &mut dyn FnMut(Committed)) -> Result<Revision, OpenError>;

    /// The same until the sink breaks: then there is no head. A journal that cannot stop reads on and
    /// tells nothing more.
    fn replay_while(
        &self,
        sink: &mut dyn FnMut(Committed) -> ControlFlow<()>,
    ) -> Result<Option<Revision>, OpenError> {
        let mut flow = ControlFlow::Continue(());
        let head = self.replay(&mut |committed| {
            if flow.is_continue() {
                flow = sink(committed);
            }
        })?;
        Ok(flow.is_continue().then_some(head))
    }

    /// Appends a group: in order, without gaps, durable when the future resolves. Drafts whose
    /// expectation fails are left out, the others stand; a draft sees those before it in its
    /// group. The group is on its way when this returns, and is written even if the future is
    /// dropped. Callers keep at most one group in flight.
    fn append(&self, group: Vec<Draft>) -> AppendFuture;

    /// Reads back one entry; none where no such revision was committed or it was superseded. Of a
    /// revision that was seen committed it gives the entry until something supersedes it.
    fn read(&self, revision: Revision) -> ReadFuture;

    /// Why nothing that adds should be appended now: the disk is nearly full. What ends or removes
    /// something may be, up to a point, where it is refused as [`AppendError::Full`]; what only
    /// removes a little longer. Cheap.
    fn shortage(&self) -> Option<Arc<str>> {
        None
    }

    /// Reads back several, as [`Journal::read`] does one, each in its place of the answer. Cheaper
    /// than one by one where they were appended together.
    fn read_many(&self, revisions: Vec<Revision>) -> ReadManyFuture {
        let reads: Vec<_> = revisions.into_iter().map(|old| self.read(old)).collect();
        Box::pin(async move {
            let mut found = Vec::with_capacity(reads.len());
            for read in reads {
                found.push(read.await?);
            }
            Ok(found)
        })
    }
}

/// What a store takes on the disk; none: nobody knows, or it is not on one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that are free where it is.
    pub disk_free: Option<u64>,
    /// Bytes it takes.
    pub bytes: Option<u64>,
}

/// All journals of one store.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// The life within which revisions compare.
    fn epoch(&self) -> Epoch;

    /// When appends are answered.
    fn durability(&self) -> Durability {
        Durability::None
    }

    /// What it takes on the disk and what is left.
    fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Namespaces that have a journal.
    fn namespaces(&self) -> Result<Vec<NamespaceId>, OpenError>;

    /// Opens the journal of a namespace, making it where there is none.
    fn open(&self, namespace: &NamespaceId) -> Result<Arc<dyn Journal>, OpenError>;

    /// Makes everything durable and lets go of the folder. Appends after it are refused.
    fn close(&self) -> Result<(), OpenError>;
}
