//! The machine behind every watch: opening, snapshot, deltas, bookmarks, resets, closing.

mod large;
mod pace;
mod sharing;

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    super::{Shared, mirror::Mirror, token::ResumeToken},
    ClosingReason, DEFAULT_HEARTBEAT, Frame, MAX_AGE, MAX_DELTA_INTERVAL, MAX_HEARTBEAT,
    MIN_HEARTBEAT, ResetReason, Start, WatchOptions,
    audience::{Audience, Place, Wait},
};
use crate::{
    domain::{Error, Reason, Revision, limits::MAX_FRAME_BYTES},
    telemetry::metrics::{WatchKind, WatchMeter, WatchReset},
};
use large::{Fetching, size_of_frame};

/// Bytes of items in one frame: what the frame adds must still fit.
const PART_BYTES: usize = MAX_FRAME_BYTES - (64 << 10);
/// After so many parts more than it needs a walk that has not met the moving head takes the rest in one go: it is
/// kept aside, shared with the mirror where it can be, and sent from there.
const PARTS_BEFORE_FREEZE: usize = 16;

/// A part of the mirror that can be watched.
pub trait Source: Send + 'static {
    /// What it is counted as.
    const KIND: WatchKind;

    /// One change.
    type Item: Send + 'static;

    /// Digest of the request: a token resumes only the request it was made for.
    fn digest(&self) -> u64;

    /// Deletions at or before it may be forgotten.
    fn horizon(&self, mirror: &Mirror) -> Revision;

    /// Commits seen by this process, for counting how many a delta folds.
    fn commits(&self, mirror: &Mirror) -> u64;

    /// Begins a walk after `from`. Deletions at or before `deleted_after` are of no interest: the
    /// client holds nothing they could remove.
    fn begin(&mut self, from: Revision, deleted_after: Revision);

    /// Another mirror stands in the place of the one that was walked, and rows of one revision may
    /// come in another order: what was told of the revision it has come to is told again.
    fn replaced(&mut self);

    /// Collects what comes next on the walk until about `limit` bytes are full. True: the walk has
    /// met the head.
    fn collect(&mut self, mirror: &Mirror, limit: usize, items: &mut Vec<Self::Item>) -> bool;

    /// Parts that a walk over all of it takes when nothing changes meanwhile, at least.
    fn parts(&self, _: &Mirror) -> usize {
        0
    }

    /// About how many bytes an item takes in a frame.
    fn size(item: &Self::Item) -> usize;

    /// The large value that an item lacks and is to be sent with, by the revision of its entry.
    fn missing(_: &Self::Item) -> Option<Revision> {
        None
    }

    /// Gives an item the value it lacks; none: its entry is gone, because the key has changed
    /// since. The item must then tell of the value without it: what changed it comes later on the
    /// walk, and until then the view is what it was at the position it is told with.
    fn complete(_: &mut Self::Item, _value: Option<Bytes>) {}

    /// The watch has seen what it was opened for.
    fn is_finished(&self, mirror: &Mirror) -> bool;

    /// Whether that can ever be.
    fn may_finish(&self) -> bool;
}

/// Encodes a whole delta as it is sent: base, position, the token of the position, what changed,
/// commits it stands for.
pub type EncodeDelta<I> = fn(Revision, Revision, Bytes, Vec<I>, u64) -> Bytes;

/// A stream of frames; see the module.
#[derive(Debug)]
pub struct Watch<S: Source> {
    shared: Arc<Shared>,
    source: S,
    place: Place,
    /// Set where deltas are shared, encoded, with the others in the audience.
    encode: Option<EncodeDelta<S::Item>>,
    heartbeat: Duration,
    min_delta_interval: Duration,
    /// The last position told: the base of the next delta. It is at most the cursor, which is at
    /// most the mirror's head, and nothing between the two concerns this watch. So a delta from
    /// `told` is right whoever made it.
    told: Revision,
    /// Everything up to here is told or does not concern this watch.
    cursor: Revision,
    commits: u64,
    /// The mirror that was walked: see [`Mirror::generation`].
    generation: u64,
    /// The view has been told complete since the stream began or was reset.
    synced: bool,
    phase: Phase,
    /// Frames that are ready, in order.
    ready: VecDeque<Frame<S::Item>>,
    ends_at: Instant,
    /// A bookmark is due, unless a frame was sent since the timer was looked at.
    bookmark_at: Instant,
    /// A frame was sent since the timer was looked at.
    spoke: bool,
    last_delta: Option<Instant>,
    /// Fires when something is due without a change, or earlier.
    timer: Pin<Box<Sleep>>,
    /// Who the timer wakes.
    timer_waker: Option<Waker>,
    /// It stands in the line for large frames, and is woken when its turn has come.
    in_line: bool,
    /// The large value that the next frame lacks first, while it is read back.
    fetching: Option<Fetching>,
    /// Counts it.
    meter: WatchMeter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Walking; parts sent so far.
    Snapshot(usize),
    /// Resumed, and not yet told that the view is complete.
    CatchingUp,
    /// Walking towards the head with a delta; parts sent so far.
    Delta(usize),
    /// Waiting for change.
    Live,
    /// The next thing is the status.
    Closed,
    /// Nothing more.
    Ended,
}

impl<S: Source> Watch<S> {
    pub(super) fn open(
        shared: Arc<Shared>,
        source: S,
        audience: Arc<Audience>,
        options: &WatchOptions,
    ) -> Result<Self, Error> {
        let heartbeat = options.heartbeat.unwrap_or(DEFAULT_HEARTBEAT);
        let now = Instant::now();
        let mut watch = Self {
            source,
            // The mirror is looked at later, so that no change falls between.
            place: audience.join(&shared.wakers.relays),
            encode: None,
            heartbeat: heartbeat.clamp(MIN_HEARTBEAT, MAX_HEARTBEAT),
            min_delta_interval: options.min_delta_interval.min(MAX_DELTA_INTERVAL),
            told: Revision::ZERO,
            cursor: Revision::ZERO,
            commits: 0,
            generation: 0,
            synced: false,
            phase: Phase::Live,
            ready: VecDeque::new(),
            ends_at: now + MAX_AGE.mul_f64(0.9 + 0.2 * fastrand::f64()),
            bookmark_at: now,
            spoke: false,
            last_delta: None,
            timer: Box::pin(sleep_until(now)),
            timer_waker: None,
            in_line: false,
            fetching: None,
            meter: shared.probe.metrics.watch_opened(S::KIND),
            shared,
        };
        watch.begin(options)?;
        Ok(watch)
    }

    fn begin(&mut self, options: &WatchOptions) -> Result<(), Error> {
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        let (start, reset) = if options.resume_token.is_empty() {
            (
                if options.updates_only {
                    Start::Live
                } else {
                    Start::Snapshot
                },
                None,
            )
        } else {
            let token = ResumeToken::decode(&options.resume_token)?;
            match self.void(&mirror, &token) {
                None => {
                    self.told = token.revision;
                    (Start::Resumed, None)
                }
                Some(reason) if options.fail_if_compacted => return Err(refusal(reason, &token)),
                Some(reason) => (Start::Snapshot, Some(reason)),
            }
        };
        self.commits = self.source.commits(&mirror);
        if start != Start::Resumed {
            self.told = mirror.head;
        }
        self.cursor = self.told;
        self.ready.push_back(Frame::Opened {
            start,
            epoch: self.shared.epoch,
            position: self.told,
            heartbeat: self.heartbeat,
        });
        if let Some(reason) = reset {
            self.meter.reset(counted(reason));
            self.ready.push_back(Frame::Reset {
                reason,
                horizon: self.source.horizon(&mirror),
            });
        }
        match start {
            Start::Snapshot => self.begin_snapshot(&mirror),
            Start::Resumed => self.phase = Phase::CatchingUp,
            Start::Live => {
                let commits = self.commits;
                self.complete(mirror.head, commits, true);
            }
        }
        Ok(())
    }

    fn begin_snapshot(&mut self, mirror: &Mirror) {
        self.source.begin(Revision::ZERO, mirror.head);
        // Deletions behind this must stay known until the walk has met the head.
        self.cursor = mirror.head;
        self.synced = false;
        self.phase = Phase::Snapshot(0);
    }

    /// Why a token cannot be honoured.
    fn void(&self, mirror: &Mirror, token: &ResumeToken) -> Option<ResetReason> {
        if token.epoch != self.shared.epoch || token.revision > mirror.head {
            Some(ResetReason::EpochChanged)
        } else if token
            .filter
            .is_some_and(|filter| filter != self.source.digest())
        {
            Some(ResetReason::FilterChanged)
        } else if token.revision < self.source.horizon(mirror) {
            Some(ResetReason::Compacted)
        } else {
            None
        }
    }

    /// A token that resumes this watch at a position it told.
    #[must_use]
    pub fn token(&self, revision: Revision) -> Bytes {
        let filter = Some(self.source.digest());
        ResumeToken {
            epoch: self.shared.epoch,
            revision,
            filter,
        }
        .encode()
    }

    /// Shares whole deltas, encoded, with the other watches of the same request.
    #[must_use]
    pub fn sharing(mut self, encode: EncodeDelta<S::Item>) -> Self {
        self.encode = Some(encode);
        self
    }

    /// The next frame. `None` where the watch has seen what it was opened for; an error, once, at
    /// any other end. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Frame<S::Item>, Error>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Watch::next`], polled.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<S::Item>, Error>>> {
        // What nearly every poll of a watch with many others comes to.
        if self.phase == Phase::Live
            && self.ready.is_empty()
            && let Some(shared) = self.find_shared()
        {
            return if self.has_turn(context, shared.bytes.len()) {
                self.meter.frame();
                Poll::Ready(Some(Ok(self.take_shared(shared))))
            } else {
                Poll::Pending
            };
        }
        loop {
            if let Err(error) = ready!(self.complete_next(context)) {
                self.ready.clear();
                self.phase = Phase::Ended;
                return Poll::Ready(Some(Err(error)));
            }
            if let Some(frame) = self.ready.front() {
                let size = size_of_frame::<S>(frame);
                if !self.has_turn(context, size) {
                    return Poll::Pending;
                }
            }
            if let Some(frame) = self.ready.pop_front() {
                // When a bookmark is sent is known.
                self.spoke |= !matches!(frame, Frame::Bookmark { .. });
                self.meter.frame();
                return Poll::Ready(Some(Ok(frame)));
            }
            match self.phase {
                Phase::Ended => return Poll::Ready(None),
                Phase::Closed => {
                    self.phase = Phase::Ended;
                    return Poll::Ready(Some(Err(Error::new(
                        Reason::StreamDraining,
                        "the watch ends as planned: resume with the last token",
                    ))));
                }
                Phase::Snapshot(_) | Phase::CatchingUp | Phase::Delta(_) => {
                    self.advance();
                    if self.ready.is_empty() && self.phase != Phase::Live {
                        // A long way without anything that concerns this watch: others first.
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Phase::Live => {
                    if self.live(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// One step towards the head; afterwards a frame is ready or the phase has changed.
    fn advance(&mut self) {
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        if self.shared.wakers.is_closing() || self.shared.draining.is_cancelled() {
            drop(mirror);
            return self.close(ClosingReason::Draining);
        }
        if Instant::now() >= self.ends_at {
            drop(mirror);
            return self.close(ClosingReason::MaxAge);
        }
        if self.cursor < self.source.horizon(&mirror) {
            let horizon = self.source.horizon(&mirror);
            self.meter.reset(WatchReset::Compacted);
            self.ready.push_back(Frame::Reset {
                reason: ResetReason::Compacted,
                horizon,
            });
            self.begin_snapshot(&mirror);
            return;
        }
        let parts = match self.phase {
            Phase::Snapshot(parts) | Phase::Delta(parts) => parts,
            _ => {
                self.source.begin(self.cursor, self.cursor);
                0
            }
        };
        if std::mem::replace(&mut self.generation, mirror.generation) != mirror.generation {
            self.source.replaced();
        }
        let limit = if parts < PARTS_BEFORE_FREEZE + self.source.parts(&mirror) {
            PART_BYTES
        } else {
            usize::MAX
        };
        let mut items = Vec::new();
        let met = self.source.collect(&mirror, limit, &mut items);
        let (head, commits) = (mirror.head, self.source.commits(&mirror));
        drop(mirror);
        match self.phase {
            Phase::Snapshot(_) => self.snapshot_parts(items, met.then_some((head, commits)), parts),
            _ => self.delta_parts(items, met.then_some((head, commits)), parts),
        }
    }

    fn snapshot_parts(&mut self, items: Vec<S::Item>, met: Option<(Revision, u64)>, parts: usize) {
        let sent = usize::from(!items.is_empty());
        for part in split::<S>(items) {
            self.ready.push_back(Frame::Snapshot(part));
        }
        match met {
            None => self.phase = Phase::Snapshot(parts + sent),
            Some((head, commits)) => self.complete(head, commits, true),
        }
    }

    fn delta_parts(&mut self, items: Vec<S::Item>, met: Option<(Revision, u64)>, parts: usize) {
        let base = self.told;
        if items.is_empty() && parts == 0 {
            // What changed does not concern this watch: the cursor moves, nobody needs to know.
            match met {
                None => self.phase = Phase::Delta(0),
                Some((head, commits)) => {
                    self.cursor = head;
                    self.commits = commits;
                    self.phase = Phase::Live;
                    if !self.synced {
                        self.complete(head, commits, true);
                    }
                }
            }
            return;
        }
        let mut split = split::<S>(items).into_iter().peekable();
        if split.peek().is_none() {
            // The walk met the head just at a part's end: the last part has no items.
            split = vec![Vec::new()].into_iter().peekable();
        }
        if let (Some(encode), Some((head, commits)), 0, 1) = (self.encode, met, parts, split.len())
        {
            let folded = commits.saturating_sub(self.commits).max(1);
            let mut items = split.next().unwrap_or_default();
            if self.complete_at_hand(&mut items) {
                let bytes = encode(base, head, self.token(head), items, folded);
                self.share(base, head, commits, &bytes);
                self.ready.push_back(Frame::Encoded(bytes));
            } else {
                split = vec![items].into_iter().peekable();
            }
        }
        while let Some(items) = split.next() {
            let last = met.filter(|_| split.peek().is_none());
            let folded = last.map_or(0, |(_, commits)| {
                commits.saturating_sub(self.commits).max(1)
            });
            let position = last.map(|(head, _)| head);
            self.ready.push_back(Frame::Delta {
                base,
                position,
                items,
                more: position.is_none(),
                folded,
            });
        }
        match met {
            None => self.phase = Phase::Delta(parts + 1),
            Some((head, commits)) => {
                self.note_delta();
                self.meter
                    .delta(commits.saturating_sub(self.commits).max(1));
                let say = !self.synced;
                self.complete(head, commits, say);
            }
        }
    }

    fn complete(&mut self, head: Revision, commits: u64, say: bool) {
        self.told = head;
        self.cursor = head;
        self.commits = commits;
        self.phase = Phase::Live;
        if say {
            self.synced = true;
            self.ready.push_back(Frame::Synced(head));
        }
    }

    /// Takes the next step if there is one to take, or waits for it.
    fn live(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Looked up once: whoever waits for the end alone must have a timer for the rest.
        let held_back = self.held_back();
        if self.step(held_back) {
            return Poll::Ready(());
        }
        let wait = held_back.map_or(Wait::Change, |_| Wait::End);
        self.place.wait(context, wait);
        // Between the step and the wait something may have changed, and nobody was woken.
        if self.step(held_back) {
            return Poll::Ready(());
        }
        self.wait_for_timer(context, held_back)
    }

    /// True: a frame is ready or the phase has changed.
    fn step(&mut self, held_back: Option<Instant>) -> bool {
        if self.shared.wakers.is_closing() {
            self.close(ClosingReason::Draining);
            return true;
        }
        if self.place.audience.head() > self.cursor && held_back.is_none() {
            self.advance();
            if !self.ready.is_empty() || self.phase != Phase::Live {
                return true;
            }
        }
        self.source.may_finish() && self.finish(held_back)
    }

    /// Ends where the watch has seen what it was opened for, once that is told.
    fn finish(&mut self, held_back: Option<Instant>) -> bool {
        let (finished, told) = {
            let mirror = self.shared.mirror.read();
            (self.source.is_finished(&mirror), mirror.head == self.cursor)
        };
        match (finished, told) {
            (false, _) => return false,
            (true, true) => self.phase = Phase::Ended,
            // Committed, and nobody was woken yet.
            (true, false) if held_back.is_none() => self.advance(),
            (true, false) => return false,
        }
        true
    }

    /// The view is still complete: at the head, where nothing that concerns it is on its way.
    fn bookmark(&mut self) {
        let head = self.shared.mirror.read().head;
        if self.held_back().is_none() && head > self.cursor {
            // Nothing woke this watch, so nothing concerns it, unless it is just being woken.
            self.advance();
            if !self.ready.is_empty() || self.phase != Phase::Live {
                return;
            }
        }
        // While a delta is held back for its pace, only what was told is complete.
        if self.cursor > self.told {
            self.told = self.cursor;
        }
        let lag = head.0.saturating_sub(self.told.0);
        self.ready.push_back(Frame::Bookmark {
            position: self.told,
            lag,
        });
    }

    fn close(&mut self, reason: ClosingReason) {
        let reconnect_after = match reason {
            ClosingReason::Draining => Duration::from_millis(200 + fastrand::u64(..800)),
            ClosingReason::MaxAge => Duration::from_millis(fastrand::u64(..200)),
        };
        self.ready.push_back(Frame::Closing {
            reason,
            reconnect_after,
        });
        self.phase = Phase::Closed;
    }
}

/// Items in frames of about [`PART_BYTES`].
fn split<S: Source>(items: Vec<S::Item>) -> Vec<Vec<S::Item>> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let size = S::size(&item);
        if bytes + size > PART_BYTES && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(item);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

fn counted(reason: ResetReason) -> WatchReset {
    match reason {
        ResetReason::Compacted => WatchReset::Compacted,
        ResetReason::EpochChanged => WatchReset::EpochChanged,
        ResetReason::FilterChanged => WatchReset::FilterChanged,
    }
}

fn refusal(reason: ResetReason, token: &ResumeToken) -> Error {
    match reason {
        ResetReason::EpochChanged => Error::new(
            Reason::EpochChanged,
            format!(
                "the token is of epoch {}, which is over: watch without it",
                token.epoch
            ),
        ),
        ResetReason::Compacted => Error::new(
            Reason::RevisionCompacted,
            format!(
                "history back to revision {} is gone: watch without the token",
                token.revision
            ),
        ),
        ResetReason::FilterChanged => Error::new(
            Reason::ResumeTokenMalformed,
            "the token was made for another request: watch without it",
        ),
    }
}
