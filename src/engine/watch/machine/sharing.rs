//! Deltas that a watch shares with its audience.

use bytes::Bytes;

use super::{
    super::{Frame, audience::SharedDelta},
    Source, Watch,
};
use crate::domain::Revision;

impl<S: Source> Watch<S> {
    /// Keeps a delta for the others. Not that of a watch that catches up: nobody is where it is.
    pub(super) fn share(&self, base: Revision, position: Revision, commits: u64, bytes: &Bytes) {
        if self.synced {
            self.place.keep(SharedDelta {
                base,
                position,
                commits,
                bytes: bytes.clone(),
            });
        }
    }

    /// What another watch at the same cursor has made, if there is something new.
    pub(super) fn find_shared(&self) -> Option<SharedDelta> {
        let news = self.place.audience.head() > self.cursor;
        if !news || self.encode.is_none() || !self.synced || self.held_back().is_some() {
            return None;
        }
        let delta = self.place.recent(self.told)?;
        // What changed on the way to the cursor does not concern this watch.
        if delta.position <= self.cursor || self.shared.wakers.is_closing() {
            return None;
        }
        Some(delta)
    }

    pub(super) fn take_shared(&mut self, delta: SharedDelta) -> Frame<S::Item> {
        self.note_delta();
        let commits = delta.commits.saturating_sub(self.commits);
        self.meter.delta(commits.max(1));
        self.spoke = true;
        self.complete(delta.position, delta.commits, false);
        Frame::Encoded(delta.bytes)
    }
}
