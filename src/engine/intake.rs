//! Where pushed batches wait for the monitor.
//!
//! Each open push stream has a [`Session`]. Its handler admits and folds what arrives, in its own
//! thread; the monitor takes what is folded, one part per writer, each time an append has
//! finished. Acknowledgements have no queue: the session holds the cumulative position, and the
//! stream reads it when there is room to send. So a session's memory is bounded by its window,
//! and a writer that does not read its acknowledgements costs nothing more.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::token::LeaseToken;
use crate::{
    domain::{
        Error, Reason, Revision, StateId, Uid,
        limits::{MAX_BATCH_BYTES, MAX_INLINE_VALUE_BYTES},
        state::{
            BatchRef, Folder, KeyOp, LargePut, OpRef, RejectedOp, Unreadable, admit_update,
            batches, rejection,
        },
    },
    telemetry::metrics::PushCounts,
};

/// Unacknowledged batches a writer may have.
pub const WINDOW_BATCHES: u32 = 4_096;
/// Unacknowledged bytes a writer may have.
pub const WINDOW_BYTES: usize = 4 << 20;
/// Rejected keys kept for one acknowledgement; more are counted in the log, not listed.
pub const MAX_REJECTED_TOLD: usize = 1_000;

/// What an operation takes in memory at least, however small it was on the wire.
const OP_BYTES: usize = 96;

/// What the monitor takes of a session: consecutive batches, folded.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) bytes: usize,
    pub(crate) ops: Vec<KeyOp>,
    pub(crate) rejected: Vec<RejectedOp>,
}

/// News for a writer that is not an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directive {
    /// Somebody asked the task to stop.
    CancelRequested,
    /// Fenced: nothing more is accepted.
    LeaseLost,
    /// The server drains: finish the window, open elsewhere.
    Reconnect,
}

/// What a push stream sends next.
#[derive(Clone, Debug, PartialEq)]
pub enum PushNews {
    /// Everything up to here is durable.
    Ack {
        /// The last batch.
        sequence: u64,
        /// The revision it became visible in.
        revision: Revision,
        /// Keys that were refused since the last acknowledgement.
        rejected: Vec<RejectedOp>,
    },
    /// A gap: go back.
    Rewind {
        /// The batch to go on with.
        expected: u64,
    },
    /// See [`Directive`].
    Directive(Directive),
}

/// Of a stream's merges one in so long is told to telemetry.
const MERGE_TOLD_EVERY_US: i64 = 1_000_000;

/// One open push stream.
#[derive(Debug)]
pub struct Session {
    /// The writer.
    pub writer: Uid,
    /// What it writes to.
    pub state: StateId,
    /// Under which lease.
    pub lease: Option<(LeaseToken, Uid)>,
    /// Shown with the keys it writes.
    pub source: String,
    inner: Mutex<Inner>,
    /// It stands in the intake's line, or waits for its state's merge interval.
    dirty: AtomicBool,
    /// What it hands in waits for no merge interval.
    urgent: AtomicBool,
    /// Its writer's final batch is on its way or in.
    done: AtomicBool,
    /// When the last merge was told to telemetry, microseconds.
    merge_told_us: AtomicI64,
    /// There is news to send.
    news: Notify,
    /// There is room in the window.
    room: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    folder: Folder,
    rejected: Vec<RejectedOp>,
    /// First batch in `folder`; `next` where it is empty.
    first: u64,
    /// The batch expected next.
    next: u64,
    /// The writer was known before this stream, or has begun on it.
    known: bool,
    pending_bytes: usize,
    in_flight_bytes: usize,
    durable: u64,
    revision: Revision,
    told: u64,
    ack_wanted: bool,
    rejected_told: Vec<RejectedOp>,
    rejected_dropped: usize,
    rewind: Option<u64>,
    rewinding: bool,
    directives: Vec<Directive>,
    /// Every directive of this stream: each is told once.
    directed: Vec<Directive>,
    closed: Option<Error>,
    duplicates: u64,
}

impl Session {
    fn new(
        writer: Uid,
        state: StateId,
        lease: Option<(LeaseToken, Uid)>,
        source: String,
        last: u64,
        revision: Revision,
    ) -> Self {
        let inner = Inner {
            first: last + 1,
            next: last + 1,
            known: last > 0,
            durable: last,
            told: last,
            revision,
            ..Inner::default()
        };
        Self {
            writer,
            state,
            lease,
            source,
            inner: Mutex::new(inner),
            dirty: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            done: AtomicBool::new(false),
            merge_told_us: AtomicI64::new(0),
            news: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Whether a merge is to be told to telemetry: at most one in a second.
    pub(super) fn tells_merge(&self, now_us: i64) -> bool {
        let last = self.merge_told_us.load(Ordering::Relaxed);
        let is_due = !(0..MERGE_TOLD_EVERY_US).contains(&now_us.saturating_sub(last));
        if is_due {
            self.merge_told_us.store(now_us, Ordering::Relaxed);
        }
        is_due
    }

    /// Takes the batches of an encoded `UpdateBatches` message. Duplicates are acknowledged again, a
    /// gap asks for a rewind; an unknown writer that does not begin at 1 is `WRITER_EXPIRED`.
    fn accept(&self, frame: &[u8]) -> Result<Accepted, Error> {
        let batches = checked(frame)?;
        // Hashed before the session is locked: the monitor may wait for it.
        let large = large_values(&batches);
        let mut inner = self.inner.lock();
        if let Some(error) = &inner.closed {
            return Err(error.clone());
        }
        let mut accepted = Accepted::default();
        let mut news = false;
        for batch in batches {
            let sequence = batch.sequence.cast_unsigned();
            accepted.batches += 1;
            if batch.is_final && sequence <= inner.next {
                // Before the monitor can see the batch; one behind a gap is not taken.
                self.done.store(true, Ordering::Release);
                accepted.last = true;
            }
            if sequence < inner.next {
                inner.duplicates += 1;
                accepted.counts.duplicates += 1;
                inner.ack_wanted = true;
                news = true;
            } else if sequence > inner.next {
                if !inner.known && inner.next == 1 {
                    return Err(self.expired(sequence));
                }
                // One rewind per gap: what was sent before the client heard of it is skipped.
                if !inner.rewinding {
                    inner.rewinding = true;
                    inner.rewind = Some(inner.next);
                    accepted.counts.rewinds += 1;
                    news = true;
                }
            } else {
                accepted.counts.batches += 1;
                accepted.counts.operations += inner.take_in(sequence, batch, &large);
                accepted.work = true;
            }
        }
        drop(inner);
        if news {
            self.news.notify_one();
        }
        Ok(accepted)
    }

    fn expired(&self, sequence: u64) -> Error {
        Error::new(
            Reason::WriterExpired,
            format!(
                "writer {} is not known here and began with batch {sequence}: begin a new writer at 1 and say what was unacknowledged",
                self.writer
            ),
        )
        .with("writer_id", self.writer)
    }

    /// Waits until the window has room, so that a client that ignores it is slowed by HTTP/2.
    pub async fn room(&self) {
        loop {
            let notified = self.room.notified();
            {
                let inner = self.inner.lock();
                if inner.closed.is_some()
                    || inner.pending_bytes + inner.in_flight_bytes < WINDOW_BYTES
                {
                    return;
                }
            }
            notified.await;
        }
    }

    /// The next thing to tell the writer; the error that ends the stream.
    pub async fn news(&self) -> Result<PushNews, Error> {
        loop {
            let notified = self.news.notified();
            if let Some(news) = self.inner.lock().news()? {
                return Ok(news);
            }
            notified.await;
        }
    }

    /// Everything that came is durable and told.
    #[must_use]
    pub fn settled(&self) -> bool {
        let inner = self.inner.lock();
        inner.durable + 1 == inner.next && inner.told == inner.durable && !inner.ack_wanted
    }

    pub(crate) fn direct(&self, directive: Directive) {
        let mut inner = self.inner.lock();
        if inner.directed.contains(&directive) {
            return;
        }
        inner.directed.push(directive);
        inner.directives.push(directive);
        drop(inner);
        self.news.notify_one();
    }

    /// Ends the stream; what waits is dropped, and the client sends it again elsewhere.
    pub(crate) fn close(&self, error: Error) {
        let mut inner = self.inner.lock();
        inner.closed.get_or_insert(error);
        inner.folder = Folder::default();
        inner.rejected.clear();
        inner.pending_bytes = 0;
        drop(inner);
        self.news.notify_one();
        self.room.notify_one();
    }

    /// Bytes that wait for the monitor; `None` where nothing does.
    pub(crate) fn waiting(&self) -> Option<usize> {
        let inner = self.inner.lock();
        (inner.closed.is_none() && inner.first < inner.next).then_some(inner.pending_bytes)
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    /// Everything its writer ever sends has been taken.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) && self.waiting().is_none()
    }

    /// Keeps it out of the line until [`Session::step_out`]. False: it stands there again already.
    pub(crate) fn hold(&self) -> bool {
        !self.dirty.swap(true, Ordering::AcqRel)
    }

    /// It may stand in line again.
    pub(crate) fn step_out(&self) {
        self.dirty.store(false, Ordering::Release);
    }

    pub(crate) fn take(&self) -> Option<Taken> {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() || inner.first == inner.next {
            return None;
        }
        let taken = Taken {
            first: inner.first,
            last: inner.next - 1,
            bytes: inner.pending_bytes,
            ops: inner.folder.take(),
            rejected: std::mem::take(&mut inner.rejected),
        };
        inner.first = inner.next;
        inner.in_flight_bytes += taken.bytes;
        inner.pending_bytes = 0;
        Some(taken)
    }

    pub(crate) fn applied(
        &self,
        last: u64,
        bytes: usize,
        revision: Revision,
        rejected: Vec<RejectedOp>,
    ) {
        let mut inner = self.inner.lock();
        inner.in_flight_bytes = inner.in_flight_bytes.saturating_sub(bytes);
        inner.durable = inner.durable.max(last);
        inner.revision = inner.revision.max(revision);
        inner.ack_wanted = true;
        let room = MAX_REJECTED_TOLD.saturating_sub(inner.rejected_told.len());
        inner.rejected_dropped += rejected.len().saturating_sub(room);
        inner.rejected_told.extend(rejected.into_iter().take(room));
        drop(inner);
        self.news.notify_one();
        self.room.notify_one();
    }

    /// Duplicates skipped and rejections not listed, for counters.
    #[must_use]
    pub fn counters(&self) -> (u64, usize) {
        let inner = self.inner.lock();
        (inner.duplicates, inner.rejected_dropped)
    }

    /// Batches that have come and are not durable yet.
    #[must_use]
    pub fn queued(&self) -> u64 {
        let inner = self.inner.lock();
        inner.next - 1 - inner.durable
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepted {
    /// Batches in it.
    pub batches: u64,
    /// What they came to.
    pub counts: PushCounts,
    /// Some of them are for the monitor.
    work: bool,
    /// The writer's last is among them.
    last: bool,
}

/// The batches of a frame, once all of it is known to be well formed: nothing of a frame that is not
/// is taken.
fn checked(frame: &[u8]) -> Result<Vec<BatchRef<'_>>, Error> {
    let batches = batches(frame, WINDOW_BATCHES as usize).map_err(|problem| {
        let problem = match problem {
            Unreadable::Malformed => "is not an encoded UpdateBatches message".to_owned(),
            Unreadable::TooMany => {
                format!("must hold at most a window of {WINDOW_BATCHES} batches, got more")
            }
        };
        Error::field("batches", problem)
    })?;
    match batches.iter().find(|batch| batch.sequence < 1) {
        None => Ok(batches),
        Some(wrong) => {
            let problem = format!("must be 1 or more, got {}", wrong.sequence);
            Err(Error::field("batches.sequence", problem))
        }
    }
}

/// The large values of a frame, each with where it stands there. Nearly no batch has one: the
/// others are not looked into.
fn large_values<'a>(batches: &[BatchRef<'a>]) -> Vec<(&'a [u8], LargePut)> {
    let sizes = MAX_INLINE_VALUE_BYTES..=MAX_BATCH_BYTES;
    let large = batches.iter();
    let large = large.filter(|batch| sizes.contains(&batch.encoded.len()));
    let updates = large.flat_map(BatchRef::updates);
    let found = updates.filter_map(|update| match update.op {
        Some(OpRef::Put(value)) => Some((value, LargePut::of(value)?)),
        _ => None,
    });
    found.collect()
}

/// The operation as it is folded: a large value as what was made of it.
#[inline]
fn set_apart<'a>(op: OpRef<'a>, large: &'a [(&[u8], LargePut)]) -> OpRef<'a> {
    match op {
        OpRef::Put(value) if value.len() > MAX_INLINE_VALUE_BYTES => {
            let made = large.iter().find(|(of, _)| std::ptr::eq(*of, value));
            made.map_or(op, |(_, put)| OpRef::PutLarge(put))
        }
        _ => op,
    }
}

impl Inner {
    /// Admits and folds the next batch. One beyond its limit loses all its keys and keeps its
    /// number, so that it cannot wedge the writer.
    /// Says how many operations it has.
    fn take_in(&mut self, sequence: u64, batch: BatchRef<'_>, large: &[(&[u8], LargePut)]) -> u64 {
        self.rewinding = false;
        self.known = true;
        self.next += 1;
        let too_large = batch.encoded.len() > MAX_BATCH_BYTES;
        let mut ops = 0;
        for update in batch.updates() {
            ops += 1;
            let admitted = if too_large {
                Err(Reason::ValueTooLarge)
            } else {
                admit_update(update)
            };
            match admitted {
                Ok((key, op)) => self.folder.push(sequence, key, set_apart(op, large)),
                Err(reason) if self.rejected.len() < MAX_REJECTED_TOLD => {
                    self.rejected.push(rejection(sequence, update.key, reason));
                }
                Err(_) => self.rejected_dropped += 1,
            }
        }
        self.pending_bytes += batch.encoded.len().max(OP_BYTES * (1 + ops));
        ops as u64
    }

    fn news(&mut self) -> Result<Option<PushNews>, Error> {
        // What is durable is told before the stream ends for whatever reason.
        if self.ack_wanted {
            self.ack_wanted = false;
            self.told = self.durable;
            return Ok(Some(PushNews::Ack {
                sequence: self.durable,
                revision: self.revision,
                rejected: std::mem::take(&mut self.rejected_told),
            }));
        }
        if let Some(expected) = self.rewind.take() {
            return Ok(Some(PushNews::Rewind { expected }));
        }
        if !self.directives.is_empty() {
            return Ok(Some(PushNews::Directive(self.directives.remove(0))));
        }
        match &self.closed {
            Some(error) => Err(error.clone()),
            None => Ok(None),
        }
    }
}

/// All open push streams of a namespace: one per writer, bounded by the streams the service
/// admits.
#[derive(Debug, Default)]
pub struct Intake {
    sessions: Mutex<HashMap<Uid, Arc<Session>>>,
    /// Those whose stream is over with something left to merge.
    left: Mutex<Vec<Weak<Session>>>,
    dirty: Mutex<Vec<Arc<Session>>>,
    wake: Notify,
}

impl Intake {
    /// Opens a session at the writer's position. An older stream of the same writer ends, and what
    /// one that is over left unmerged is dropped: merged later, it would move the position that the
    /// new one was told, and whoever opens again sends what is not durable again.
    pub(crate) fn open(
        &self,
        writer: Uid,
        state: StateId,
        lease: Option<(LeaseToken, Uid)>,
        source: String,
        last: u64,
        revision: Revision,
    ) -> Arc<Session> {
        let session = Arc::new(Session::new(writer, state, lease, source, last, revision));
        let older = self.sessions.lock().insert(writer, session.clone());
        let mut left = self.left.lock();
        left.retain(|left| left.strong_count() > 0);
        let left = left.iter().filter_map(Weak::upgrade);
        for older in older
            .into_iter()
            .chain(left.filter(|left| left.writer == writer))
        {
            older.close(
                Error::new(
                    Reason::WriterTakenOver,
                    format!("another stream opened with writer {writer}"),
                )
                .with("writer_id", writer),
            );
        }
        session
    }

    /// Takes the batches of one frame, an encoded `UpdateBatches` message; says what they were.
    pub fn push(&self, session: &Arc<Session>, frame: &[u8]) -> Result<Accepted, Error> {
        let accepted = session.accept(frame)?;
        if accepted.last {
            self.hurry(session);
        }
        // Whoever stands in line was told of, and whoever is held is not waited for.
        if accepted.work && self.put_back([session.clone()]) {
            self.wake.notify_one();
        }
        Ok(accepted)
    }

    /// The stream is over. What it handed in is still merged, at once.
    pub fn leave(&self, session: &Arc<Session>) {
        let waits = session.waiting().is_some();
        if waits {
            let mut left = self.left.lock();
            left.retain(|left| left.strong_count() > 0);
            left.push(Arc::downgrade(session));
        }
        {
            let mut sessions = self.sessions.lock();
            if sessions
                .get(&session.writer)
                .is_some_and(|open| Arc::ptr_eq(open, session))
            {
                sessions.remove(&session.writer);
            }
        }
        if waits {
            self.hurry(session);
        }
    }

    /// What the writer has handed in, and what it still hands in, waits for no merge interval.
    pub(crate) fn hurry(&self, session: &Arc<Session>) {
        if !session.urgent.swap(true, Ordering::AcqRel) {
            // Perhaps for the second time, which does no harm: it is taken once.
            self.dirty.lock().push(session.clone());
            self.wake.notify_one();
        }
    }

    /// The same as [`Intake::hurry`] for a writer with an open stream.
    pub(crate) fn hurry_writer(&self, writer: Uid) {
        let session = self.sessions.lock().get(&writer).cloned();
        if let Some(session) = session {
            self.hurry(&session);
        }
    }

    /// Sessions with something to merge, in order of arrival.
    pub(crate) fn take_dirty(&self) -> Vec<Arc<Session>> {
        let sessions = std::mem::take(&mut *self.dirty.lock());
        for session in &sessions {
            session.dirty.store(false, Ordering::Release);
        }
        sessions
    }

    /// Puts sessions in line, each once; says whether one was not in it.
    pub(crate) fn put_back(&self, sessions: impl IntoIterator<Item = Arc<Session>>) -> bool {
        let mut dirty = self.dirty.lock();
        let before = dirty.len();
        for session in sessions {
            if !session.dirty.swap(true, Ordering::AcqRel) {
                dirty.push(session);
            }
        }
        dirty.len() > before
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.lock().is_empty()
    }

    /// Resolves when something was pushed.
    pub(crate) async fn pushed(&self) {
        self.wake.notified().await;
    }

    /// Ends every stream and forgets what was handed in: each client sends again, on a new stream,
    /// what is not durable.
    pub(crate) fn clear(&self, error: &Error) {
        let sessions = std::mem::take(&mut *self.sessions.lock());
        self.dirty.lock().clear();
        for session in sessions.into_values() {
            session.close(error.clone());
        }
    }

    /// Every open session.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().values().cloned().collect()
    }
}
