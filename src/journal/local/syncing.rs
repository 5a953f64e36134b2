//! When what was answered is synced, where that is not before the answer.

use std::time::{Duration, Instant};

use fjall::{Database, PersistMode};

use super::commit::Queue;
use crate::journal::Durability;

impl Durability {
    /// How each batch is persisted before it is answered.
    ///
    /// `fdatasync` is enough. It writes the data and what is needed to read it back, the file's
    /// length among it (fdatasync(2); on macOS the standard library makes it F_FULLFSYNC). Besides,
    /// fjall makes its journal files 64 MiB long and syncs file and folder before it uses them, so
    /// mostly the length does not even change. What `fsync` adds is the time of the last change,
    /// which nobody reads, at the price of another write of the file system's log.
    pub(super) fn persist_mode(self) -> PersistMode {
        match self {
            Self::Sync => PersistMode::SyncData,
            Self::Interval(_) | Self::None => PersistMode::Buffer,
        }
    }
}

/// Syncs at intervals, in the thread that commits.
#[derive(Debug)]
pub(super) struct Syncing {
    interval: Option<Duration>,
    /// When what was written first since the last sync is to be synced.
    due: Option<Instant>,
}

impl Syncing {
    pub(super) fn new(durability: Durability) -> Self {
        let interval = match durability {
            Durability::Interval(interval) => Some(interval),
            Durability::Sync | Durability::None => None,
        };
        Self {
            interval,
            due: None,
        }
    }

    /// When to come back even if nothing is written.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Something was written and answered.
    pub(super) fn written(&mut self) {
        if let Some(interval) = self.interval {
            self.due.get_or_insert_with(|| Instant::now() + interval);
        }
    }

    /// Syncs where it is time.
    pub(super) fn sync(&mut self, queue: &Queue, database: &Database) {
        if self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.due = None;
        if let Err(error) = database.persist(PersistMode::SyncData) {
            tracing::error!(%error, "the journal cannot be synced and takes nothing more");
            queue.lose(format!(
                "the journal could not be synced ({error}): what was answered since the last sync may be lost; free space or repair the disk, then restart"
            ));
        }
    }
}
