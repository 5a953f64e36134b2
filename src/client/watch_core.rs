//! The pure half of a watch: folds frames into a view and checks that they chain.
//!
//! A view is only ever shown at a position that the server named. What comes before that, a
//! snapshot or a delta in several parts, is kept aside until its last part is there.

use bytes::Bytes;

use crate::proto::v1::{Position, WatchClosing, WatchOpened, WatchReset, watch_opened::Start};

/// A map that changes are applied to.
pub trait View: Default + Send + Unpin + 'static {
    /// One change to one entry.
    type Change: Clone + Send + Unpin + 'static;

    /// Applies a change. Applying one again that the view already has changes nothing.
    fn apply(&mut self, change: Self::Change);
}

/// The frames that all watches have in common.
#[derive(Debug, Clone)]
pub(crate) enum Frame<C> {
    Opened(WatchOpened),
    Snapshot(Vec<C>),
    Synced(Position),
    Delta {
        base: i64,
        position: Option<Position>,
        changes: Vec<C>,
        more: bool,
        folded: i32,
    },
    Bookmark(Position),
    Reset(WatchReset),
    Closing(WatchClosing),
}

/// What a frame brought about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step<C> {
    /// Nothing that can be seen yet.
    Nothing,
    /// The stream was opened.
    Opened { snapshot: bool },
    /// The view equals the server's at `position`.
    Synced { position: Position },
    /// These changes carried the view to `position`.
    Changed {
        changes: Vec<C>,
        position: Position,
        folded_commits: i32,
    },
    /// What was held is stale; a snapshot follows on the same stream.
    Reset(WatchReset),
    /// The server will end the stream.
    Closing(WatchClosing),
}

/// Frames that do not follow from each other: the view cannot be trusted any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BrokenChain(pub(super) String);

/// See the module.
#[derive(Debug)]
pub(super) struct WatchCore<V: View> {
    view: V,
    /// The snapshot that is coming in.
    staged: Option<V>,
    /// The parts of an unfinished delta.
    parts: Vec<V::Change>,
    in_delta: bool,
    /// The position that the server last told this stream.
    revision: Option<i64>,
    token: Bytes,
}

impl<V: View> Default for WatchCore<V> {
    fn default() -> Self {
        Self {
            view: V::default(),
            staged: None,
            parts: Vec::new(),
            in_delta: false,
            revision: None,
            token: Bytes::new(),
        }
    }
}

impl<V: View> WatchCore<V> {
    /// Starts from a position of a write or list instead of from a snapshot.
    pub(super) fn from_position(position: &Position) -> Self {
        Self {
            revision: (position.revision > 0).then_some(position.revision),
            token: position.resume_token.clone(),
            ..Self::default()
        }
    }

    pub(super) fn view(&self) -> &V {
        &self.view
    }

    /// The token to resume with; empty for a snapshot.
    pub(super) fn token(&self) -> Bytes {
        self.token.clone()
    }

    pub(super) fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// Forgets everything: the next stream starts with a snapshot.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The stream is gone, and with it what was not complete.
    pub(super) fn on_disconnect(&mut self) {
        if self.staged.take().is_some() {
            // Half a snapshot: what the view holds is older than the position may say.
            self.forget();
        }
        self.parts.clear();
        self.in_delta = false;
    }

    pub(super) fn on_frame(
        &mut self,
        frame: Frame<V::Change>,
    ) -> Result<Step<V::Change>, BrokenChain> {
        // A reset drops the parts with all else; those that a closing stream leaves unfinished go
        // with the stream.
        let may_cut = matches!(
            frame,
            Frame::Delta { .. } | Frame::Reset(_) | Frame::Closing(_)
        );
        if self.in_delta && !may_cut {
            return Err(BrokenChain(
                "a delta in parts was cut by another frame".to_owned(),
            ));
        }
        match frame {
            Frame::Opened(opened) => self.on_opened(&opened),
            Frame::Snapshot(changes) => {
                let Some(staged) = &mut self.staged else {
                    return Err(BrokenChain(
                        "a snapshot came that was not announced".to_owned(),
                    ));
                };
                changes.into_iter().for_each(|change| staged.apply(change));
                Ok(Step::Nothing)
            }
            Frame::Synced(position) => {
                self.move_to(&position)?;
                if let Some(staged) = self.staged.take() {
                    self.view = staged;
                }
                self.token.clone_from(&position.resume_token);
                Ok(Step::Synced { position })
            }
            Frame::Delta {
                base,
                position,
                changes,
                more,
                folded,
            } => self.on_delta(base, position, changes, more, folded),
            Frame::Bookmark(position) => {
                self.move_to(&position)?;
                // In the middle of a snapshot a token would resume past what has not come yet.
                if self.staged.is_none() {
                    self.token = position.resume_token;
                }
                Ok(Step::Nothing)
            }
            Frame::Reset(reset) => {
                self.forget();
                self.staged = Some(V::default());
                Ok(Step::Reset(reset))
            }
            Frame::Closing(closing) => Ok(Step::Closing(closing)),
        }
    }

    fn on_opened(&mut self, opened: &WatchOpened) -> Result<Step<V::Change>, BrokenChain> {
        let told = opened.position.as_ref().map(|position| position.revision);
        let told = told.filter(|told| *told > 0);
        match opened.start() {
            Start::Resumed => {
                if let (Some(held), Some(told)) = (self.revision, told)
                    && held != told
                {
                    return Err(BrokenChain(format!(
                        "resumed at revision {told}, held {held}"
                    )));
                }
                self.revision = told.or(self.revision);
                Ok(Step::Opened { snapshot: false })
            }
            Start::Live => {
                self.revision = told;
                Ok(Step::Opened { snapshot: false })
            }
            Start::Snapshot | Start::Unspecified => {
                self.staged = Some(V::default());
                self.revision = None;
                Ok(Step::Opened { snapshot: true })
            }
        }
    }

    fn on_delta(
        &mut self,
        base: i64,
        position: Option<Position>,
        changes: Vec<V::Change>,
        more: bool,
        folded: i32,
    ) -> Result<Step<V::Change>, BrokenChain> {
        // Every part names the same base; the first is where the chain can break.
        if let Some(held) = self.revision.filter(|held| !self.in_delta && *held != base) {
            return Err(BrokenChain(format!(
                "a delta from revision {base} came, held {held}"
            )));
        }
        self.in_delta = more;
        self.parts.extend(changes);
        if more {
            return Ok(Step::Nothing);
        }
        let Some(position) = position else {
            return Err(BrokenChain("a delta ended without a position".to_owned()));
        };
        self.move_to(&position)?;
        let changes = std::mem::take(&mut self.parts);
        let view = self.staged.as_mut().unwrap_or(&mut self.view);
        changes
            .iter()
            .cloned()
            .for_each(|change| view.apply(change));
        if self.staged.is_some() {
            return Ok(Step::Nothing);
        }
        self.token.clone_from(&position.resume_token);
        Ok(Step::Changed {
            changes,
            position,
            folded_commits: folded,
        })
    }

    fn move_to(&mut self, position: &Position) -> Result<(), BrokenChain> {
        if let Some(held) = self.revision.filter(|held| *held > position.revision) {
            let told = position.revision;
            return Err(BrokenChain(format!(
                "the revision went back from {held} to {told}"
            )));
        }
        self.revision = Some(position.revision);
        Ok(())
    }
}

#[cfg(test)]
#[path = "watch_core_tests.rs"]
mod tests;
