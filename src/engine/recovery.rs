//! How a namespace goes on after its monitor has panicked.
//!
//! The journal has everything that was acknowledged, so the monitor begins as after a start, within
//! the process: the append that was on its way is settled, all of the journal is folded into a new
//! mirror, which takes the old one's place, and a new [`Core`](super::core::Core) takes that up.
//!
//! What happens to the parts that the monitor shares with others ([`Shared`]):
//!
//! - *mirror*: reads and watches go on from the old one until the new one takes its place, under the
//!   lock. A panic in the middle of a group leaves its head where it was before the group ([`Whole`]),
//!   so no cursor passes what is only half there. What can be read of it early is committed. The new
//!   head is at or after the old one.
//! - *ready*: the lines are made anew; whose turn it is between tenants begins anew.
//! - *intake*: push streams end with `STREAM_DRAINING`; clients open again at what is durable.
//! - *wakers*: everyone is woken; *presence*, the commands that wait, and the tokens stay.
//! - *values*, *payloads*: hold committed data by revision, which never changes; they stay.
//! - *probe*: what was committed and not told of before the panic is not told.
//!
//! Callers whose command the monitor had taken are answered `NOT_READY`, as their answers are dropped
//! with the core; commands it had not taken wait for the new one. Leases get one full period.

use std::{
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
};

use futures_util::FutureExt;

use super::{Shared, mirror::Mirror, ready::Ready, store::fold};
use crate::{
    domain::{Error, Reason, Revision},
    journal::{AppendError, AppendFuture, Journal, OpenError},
};

/// Why a monitor cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum MonitorError {
    /// The journal can no longer be trusted to be what the mirror says.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The monitor panicked, and the journal cannot be read back.
    #[error("the journal cannot be replayed after a panic: {0}")]
    Replay(#[from] OpenError),
    /// The monitor panicked, and the journal ends before what was acknowledged.
    #[error(
        "after a panic the journal ends at revision {journal}, but {seen} was committed: its end is lost"
    )]
    WentBack {
        /// Where the journal ends.
        journal: Revision,
        /// What was seen before.
        seen: Revision,
    },
}

/// A mirror while a group is folded: where that is left half done its head goes back to what it was,
/// which nobody has seen otherwise because the lock is held.
pub(super) struct Whole<'a> {
    mirror: &'a mut Mirror,
    before: Option<Revision>,
}

impl<'a> Whole<'a> {
    pub(super) fn of(mirror: &'a mut Mirror) -> Self {
        let before = Some(mirror.head);
        Self { mirror, before }
    }

    /// All of the group is folded.
    pub(super) fn done(mut self) {
        self.before = None;
    }
}

impl Deref for Whole<'_> {
    type Target = Mirror;

    fn deref(&self) -> &Mirror {
        self.mirror
    }
}

impl DerefMut for Whole<'_> {
    fn deref_mut(&mut self) -> &mut Mirror {
        self.mirror
    }
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            self.mirror.head = before;
        }
    }
}

/// Makes a namespace whole again; see the module. Afterwards nothing is in flight.
pub(super) async fn recover(
    shared: &Arc<Shared>,
    journal: &Arc<dyn Journal>,
    append: &mut Option<AppendFuture>,
) -> Result<(), MonitorError> {
    shared.intake.clear(&Error::new(
        Reason::StreamDraining,
        "the server begins anew with the namespace after a failure: open the stream again with the same writer",
    ));
    if let Some(append) = append.take() {
        settled(append).await?;
    }
    // A group may be on its way of which no future is left, where the panic came while it was handed
    // over. Groups are written in order: behind this empty one none is.
    settled(journal.append(Vec::new())).await?;
    let journal = Arc::clone(journal);
    let folding = tokio::task::spawn_blocking(move || fold(journal.as_ref()));
    let mut mirror = match folding.await {
        Ok(mirror) => mirror?,
        Err(error) => match error.try_into_panic() {
            // It is the monitor's own.
            Ok(payload) => resume_unwind(payload),
            // The runtime ends, and this task with it.
            Err(_) => return std::future::pending().await,
        },
    };
    let (head, broken) = {
        let mut live = shared.mirror.write();
        if mirror.head < live.head {
            return Err(MonitorError::WentBack {
                journal: mirror.head,
                seen: live.head,
            });
        }
        mirror.succeed(&mut live);
        let head = mirror.head;
        *shared.ready.lock() = Ready::default();
        (head, std::mem::replace(&mut *live, mirror))
    };
    // It may be large: not while others wait for the lock.
    drop(broken);
    shared.wakers.wake_all(head);
    tracing::warn!(namespace = %shared.id, revision = head.0, "monitor begins anew from the journal");
    Ok(())
}

/// Waits until a group is committed or refused for good; an error where nobody can tell.
async fn settled(append: AppendFuture) -> Result<(), AppendError> {
    match AssertUnwindSafe(append).catch_unwind().await {
        Ok(Ok(_) | Err(AppendError::Refused(_) | AppendError::Full(_))) => Ok(()),
        Ok(Err(error @ AppendError::Unknown(_))) => Err(error),
        Err(_) => Err(AppendError::Unknown(
            "the journal panicked while it took a group".into(),
        )),
    }
}

/// Where a monitor can be made to panic.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// Before a group is planned, with work at hand.
    Plan,
    /// When a group was handed to the journal.
    Append,
    /// After half of a group's entries are folded.
    Fold,
    /// When a group is folded and nobody is answered.
    Settle,
    /// Whatever is done.
    Loop,
}

/// Makes a monitor panic.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Trap(parking_lot::Mutex<Option<Point>>);

#[cfg(test)]
impl Trap {
    /// The next time it gets there; [`Point::Loop`] every time.
    pub(super) fn set(&self, point: Point) {
        *self.0.lock() = Some(point);
    }

    pub(super) fn spring(&self, point: Point) {
        let mut set = self.0.lock();
        if *set == Some(point) {
            if point != Point::Loop {
                *set = None;
            }
            drop(set);
            panic!("a test asked for it at {point:?}");
        }
    }
}
