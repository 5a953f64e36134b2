//! Watches: streams that replicate a part of the mirror.
//!
//! A watch is a cursor and has no queue. When the HTTP/2 stream has room, gRPC polls it, and only
//! then is "everything changed in (cursor, head]" looked up. So a slow watcher folds by itself,
//! costs a constant amount of memory (a cursor, and one frame made ahead) and never slows a writer; and a watch can begin at any
//! revision back to the horizon.
//!
//! - [`Watch`]: the machine, the same for every [`Source`]
//! - [`StateSource`], [`TaskSource`], [`ErrorSource`]: what is watched
//! - [`LeaseWatch`]: news for one worker process

mod audience;
mod errors;
mod lease;
mod machine;
mod state;
mod task;
mod walk;

use std::time::Duration;

use bytes::Bytes;

pub(crate) use audience::{Audience, AudienceKey, Relays};
pub use errors::{ErrorSource, ErrorWatch};
pub use lease::{LeaseNews, LeaseWatch};
pub use machine::{EncodeDelta, Source, Watch};
pub use state::{KeyFilter, StateItem, StateSource, StateWatch, WatchStates};
pub use task::{TaskItem, TaskSource, TaskWatch, WatchTasks};

use crate::domain::{Epoch, Revision};

/// Silence between frames unless asked otherwise, and the bounds of what may be asked.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);
/// The shortest heartbeat given.
pub const MIN_HEARTBEAT: Duration = Duration::from_secs(5);
/// The longest heartbeat given.
pub const MAX_HEARTBEAT: Duration = Duration::from_secs(60);
/// The slowest pace a client may ask for.
pub const MAX_DELTA_INTERVAL: Duration = Duration::from_secs(10);
/// A watch ends after this long, give or take a tenth, so that connections can be balanced.
pub const MAX_AGE: Duration = Duration::from_secs(600);

/// What every watch can be asked for.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Go on from here; empty: begin with a snapshot.
    pub resume_token: Bytes,
    /// See at least this much.
    pub min_position: Bytes,
    /// A frame at least this often; none: [`DEFAULT_HEARTBEAT`].
    pub heartbeat: Option<Duration>,
    /// Deltas at most this often.
    pub min_delta_interval: Duration,
    /// Fail where the token cannot be honoured, rather than begin anew.
    pub fail_if_compacted: bool,
    /// No snapshot.
    pub updates_only: bool,
}

/// Which of the worlds a watch begins in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// What the client holds is void; a snapshot follows.
    Snapshot,
    /// What the client holds stands; deltas follow.
    Resumed,
    /// Only what changes from now on.
    Live,
}

/// Why what the client holds is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// Deletions since then are forgotten.
    Compacted,
    /// The store has begun another life.
    EpochChanged,
    /// The token was made for another request.
    FilterChanged,
}

/// Why a watch ends as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosingReason {
    /// The server stops.
    Draining,
    /// The stream has reached its age.
    MaxAge,
}

/// What a watch sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame<I> {
    /// First of all.
    Opened {
        /// See [`Start`].
        start: Start,
        /// The store's life.
        epoch: Epoch,
        /// Where it begins.
        position: Revision,
        /// What the server will do.
        heartbeat: Duration,
    },
    /// A part of the snapshot.
    Snapshot(Vec<I>),
    /// The view is complete at this position.
    Synced(Revision),
    /// A part of the way from one complete view to the next.
    Delta {
        /// The last position told.
        base: Revision,
        /// On the last part only.
        position: Option<Revision>,
        /// What changed.
        items: Vec<I>,
        /// Another part follows.
        more: bool,
        /// Commits it stands for; on the last part, else 0.
        folded: u64,
    },
    /// A whole delta as [`EncodeDelta`] made it, shared with other watches.
    Encoded(Bytes),
    /// Nothing was sent for a heartbeat.
    Bookmark {
        /// The view is still complete here.
        position: Revision,
        /// How far the head is ahead.
        lag: u64,
    },
    /// A snapshot follows.
    Reset {
        /// Why.
        reason: ResetReason,
        /// Deletions at or before it are forgotten.
        horizon: Revision,
    },
    /// The stream ends; nothing is lost.
    Closing {
        /// Why.
        reason: ClosingReason,
        /// When to come back.
        reconnect_after: Duration,
    },
}
