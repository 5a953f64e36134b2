//! How much room the disk has. fjall cannot try a failed write again, so a full disk would end the
//! server: what adds is refused before, while some space is left.
//!
//! The reserve has two halves. Where less than all of it is free the journal is *short*: whoever
//! plans what to append leaves out what adds (see [`Journal::shortage`]), and what ends or removes
//! something may use the first half. Where less than half is free, only groups that do nothing but
//! remove are taken, and below a quarter none; that is for fjall's own work in the background, which
//! writes before it frees.
//!
//! [`Journal::shortage`]: crate::journal::Journal::shortage

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    domain::Entry,
    journal::{AppendError, Draft},
};

/// How often the file system is asked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it is asked at most where what was written since may have used up the room.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The free space of the data folder's file system, and what of it is kept free.
#[derive(Debug)]
pub(super) struct Space {
    path: PathBuf,
    /// 0: nobody looks.
    reserve: u64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    free: u64,
    /// Bytes of groups since.
    written: u64,
    /// What is said while it is short.
    shortage: Option<Arc<str>>,
}

impl Space {
    pub(super) fn new(path: &Path, reserve: u64) -> Self {
        Self {
            path: path.to_owned(),
            reserve,
            seen: Mutex::default(),
        }
    }

    /// Bytes free on the disk; none: nobody knows.
    pub(super) fn free(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.path).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Why what adds should be refused.
    pub(super) fn shortage(&self) -> Option<Arc<str>> {
        if self.reserve == 0 {
            return None;
        }
        let mut seen = self.seen.lock();
        self.look(&mut seen);
        seen.shortage.clone()
    }

    /// Takes a group, or refuses it.
    pub(super) fn admit(&self, group: &[Draft]) -> Result<(), AppendError> {
        if self.reserve == 0 {
            return Ok(());
        }
        let mut seen = self.seen.lock();
        self.look(&mut seen);
        let Some(shortage) = &seen.shortage else {
            return Ok(());
        };
        let left = seen.left();
        if left >= self.reserve / 2 || left >= self.reserve / 4 && group.iter().all(removes) {
            return Ok(());
        }
        Err(AppendError::Full(shortage.to_string()))
    }

    /// So many bytes were written.
    pub(super) fn written(&self, bytes: usize) {
        if self.reserve > 0 {
            let mut seen = self.seen.lock();
            seen.written = seen.written.saturating_add(bytes as u64);
        }
    }

    fn look(&self, seen: &mut Seen) {
        let old = seen.at.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        let doubtful = seen.shortage.is_none()
            && seen.left() < self.reserve
            && seen.at.is_none_or(|at| at.elapsed() >= LOOK_AGAIN);
        if !old && !doubtful {
            return;
        }
        // Where nobody knows, a write that fails says more.
        let free = self.free().unwrap_or(u64::MAX);
        *seen = Seen {
            at: Some(Instant::now()),
            free,
            written: 0,
            shortage: self.judge(free, seen.shortage.take()),
        };
    }

    /// Once short, it must become a little more than enough, so that it does not come and go.
    fn judge(&self, free: u64, before: Option<Arc<str>>) -> Option<Arc<str>> {
        let enough = match before {
            Some(_) => self.reserve.saturating_add(self.reserve / 8),
            None => self.reserve,
        };
        if free >= enough {
            if before.is_some() {
                tracing::info!(
                    data.free_bytes = free,
                    "the disk has room again: writes are taken"
                );
            }
            return None;
        }
        if before.is_none() {
            tracing::error!(
                data = %self.path.display(),
                data.free_bytes = free,
                data.reserve_bytes = self.reserve,
                "the disk is nearly full: writes are refused until there is room, reads go on"
            );
        }
        Some(
            format!(
                "the disk of data folder {} is nearly full: {free} bytes are free and {} are kept in reserve; free some space or set a smaller --disk-reserve",
                self.path.display(),
                self.reserve
            )
            .into(),
        )
    }
}

/// Whether it makes more room than it takes.
fn removes(draft: &Draft) -> bool {
    match &draft.entry {
        Entry::TaskRemoved(_) | Entry::Horizon(_) => true,
        Entry::StateSnapshot(snapshot) => !snapshot.alive,
        _ => false,
    }
}

impl Seen {
    fn left(&self) -> u64 {
        self.free.saturating_sub(self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{entry::TaskRemoved, state::StateSnapshot};

    #[test]
    fn a_reserve_above_what_is_free_is_a_shortage_and_none_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let none = Space::new(folder.path(), 0);
        assert!(none.shortage().is_none());
        assert!(none.admit(&[]).is_ok());
        let short = Space::new(folder.path(), u64::MAX);
        let shortage = short.shortage().unwrap();
        assert!(shortage.contains("--disk-reserve"), "{shortage}");
        assert!(matches!(short.admit(&[]), Err(AppendError::Full(_))));
        let plenty = Space::new(folder.path(), 1);
        assert!(plenty.shortage().is_none());
        assert!(plenty.admit(&[]).is_ok());
    }

    #[test]
    fn what_only_removes_is_taken_down_to_a_quarter_of_the_reserve() {
        let draft = |entry| Draft {
            entry,
            expect: None,
            supersedes: Vec::new(),
        };
        let removal = || draft(Entry::TaskRemoved(TaskRemoved::default()));
        let adds = || draft(Entry::Task(Box::default()));
        let deletion = || {
            draft(Entry::StateSnapshot(StateSnapshot {
                alive: false,
                ..StateSnapshot::default()
            }))
        };
        for (free, any, removing) in [
            (500, true, true),
            (499, false, true),
            (250, false, true),
            (249, false, false),
        ] {
            let space = Space::new(Path::new("/"), 1_000);
            *space.seen.lock() = Seen {
                at: Some(Instant::now()),
                free,
                written: 0,
                shortage: Some("short".into()),
            };
            let takes = |group: &[Draft]| space.admit(group).is_ok();
            assert_eq!(takes(&[adds()]), any, "{free}");
            assert_eq!(takes(&[removal(), adds()]), any, "{free}");
            assert_eq!(takes(&[removal(), deletion()]), removing, "{free}");
        }
    }

    #[test]
    fn a_shortage_ends_with_a_little_more_than_the_reserve() {
        let space = Space::new(Path::new("/"), 800);
        assert!(space.judge(800, None).is_none());
        let short = space.judge(799, None);
        assert!(short.is_some());
        let short = space.judge(899, short);
        assert!(short.is_some());
        assert!(space.judge(900, short).is_none());
    }

    #[test]
    fn a_folder_that_cannot_be_asked_is_no_shortage() {
        let space = Space::new(Path::new("/no/such/folder"), u64::MAX);
        assert!(space.shortage().is_none());
    }
}
