//! Watches of the same request: woken together, and served the same encoded bytes.
//!
//! A thousand people look at the same progress bar. Whoever is first to go from one revision to the
//! next makes the delta; the others at the same cursor are sent the same bytes. What a watch does
//! for an update that it shares is: be woken, compare two numbers, take the bytes, wait again.
//!
//! A wake from another thread costs a system call where one from the same costs a place in a line.
//! So the monitor wakes one [`Relay`] for each thread, and that wakes the watches beside it. Bytes
//! are shared within a thread for the same reason: counting who holds them is cheap only where
//! nobody else counts.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Waker},
    thread::{self, ThreadId},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::state::KeyFilter;
use crate::{
    domain::{Revision, StateId},
    runtime::{JobKind, TaskHandle, library},
};

/// Deltas kept for those who come a little later.
const RECENT: usize = 8;
/// And the bytes they may have together; a larger one is kept alone, for a moment: what nobody has
/// asked for since the last upkeep is let go of.
const RECENT_BYTES: usize = 512 << 10;

/// Large frames that go out without a pause, in bytes; one that is larger goes alone.
const LARGE_BYTES: usize = 256 << 10;
/// What everything else on the thread has between them.
const LARGE_PAUSE: Duration = Duration::from_millis(1);

/// A request, as far as it decides what a delta holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AudienceKey {
    /// The states, in the order of the request.
    pub(crate) states: Vec<StateId>,
    /// Which of their keys.
    pub(crate) keys: KeyFilter,
    /// From where on values come as stubs.
    pub(crate) inline_limit: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    /// The head when one of its topics changed last; 0: not since it came together.
    head: AtomicU64,
    parts: RwLock<Vec<Arc<Part>>>,
}

/// Those of an audience who came on one thread.
#[derive(Debug)]
struct Part {
    relay: Arc<Relay>,
    /// It stands in the relay's line.
    due: AtomicBool,
    next_seat: AtomicU64,
    seats: RwLock<HashMap<u64, Arc<Seat>>>,
    recent: Mutex<VecDeque<SharedDelta>>,
}

/// Wakes watches on the thread that they are on. It is a task that ends with its [`Relays`].
#[derive(Debug)]
pub(crate) struct Relay {
    thread: ThreadId,
    /// Parts to wake: each is in it once, so there are as many as open audiences.
    due: Mutex<Vec<Arc<Part>>>,
    notify: Notify,
    large: Mutex<LargeFrames>,
}

/// Whose turn it is to send a large frame. Fifty watches of a preview image would otherwise have
/// this thread, and the processors, busy for many milliseconds, and a progress number that is due
/// as well would come after them. So they come a few at a time, with a pause between: 256 MiB a
/// second for each thread, beyond which watches fold as they do on a slow connection.
#[derive(Debug, Default)]
struct LargeFrames {
    /// Bytes sent since the last pause.
    sent: usize,
    /// Those who come next, with the bytes they have; each watch once.
    waiting: VecDeque<(Waker, usize)>,
}

impl Relay {
    /// Whether a large frame may be sent now; else the task is woken when it may.
    fn large_turn(&self, context: &Context<'_>, bytes: usize) -> bool {
        let mut large = self.large.lock();
        if large.sent >= LARGE_BYTES {
            large.waiting.push_back((context.waker().clone(), bytes));
            return false;
        }
        if large.sent == 0 {
            self.notify.notify_one();
        }
        large.sent += bytes;
        true
    }

    /// A large frame was sent since the last pause.
    fn sent_large(&self) -> bool {
        self.large.lock().sent > 0
    }

    /// Gives the turn to the next.
    fn next_large(&self) {
        let mut large = self.large.lock();
        large.sent = 0;
        while large.sent < LARGE_BYTES
            && let Some((next, bytes)) = large.waiting.pop_front()
        {
            large.sent += bytes;
            next.wake();
        }
    }

    fn wake_due(&self) {
        let due = std::mem::take(&mut *self.due.lock());
        for part in due {
            part.due.store(false, Ordering::SeqCst);
            part.wake(Wait::Change);
        }
    }
}

/// The relays of a namespace, one for each thread that has opened a watch: those that serve
/// connections.
#[derive(Debug, Default)]
pub(crate) struct Relays(Mutex<Vec<(Arc<Relay>, TaskHandle<()>)>>);

impl Relays {
    /// The relay of the thread that calls, within a runtime.
    fn here(&self) -> Arc<Relay> {
        let thread = thread::current().id();
        let mut relays = self.0.lock();
        // Those whose runtime has ended.
        relays.retain(|(_, task)| !task.is_finished());
        if let Some((relay, _)) = relays.iter().find(|(relay, _)| relay.thread == thread) {
            return relay.clone();
        }
        let relay = Arc::new(Relay {
            thread,
            due: Mutex::default(),
            notify: Notify::new(),
            large: Mutex::default(),
        });
        // A watch whose relay were gone would hear of nothing any more.
        let relayed = relay.clone();
        let task =
            library().spawn_restarting(JobKind::Maintenance, "relay of wakes", move |life| {
                if life.number > 0 {
                    relayed.notify.notify_one();
                }
                relay_wakes(relayed.clone()).map(Ok::<_, Infallible>)
            });
        relays.push((relay.clone(), task));
        relay
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        for (_, task) in self.0.get_mut() {
            task.abort();
        }
    }
}

async fn relay_wakes(relay: Arc<Relay>) {
    loop {
        relay.notify.notified().await;
        relay.wake_due();
        while relay.sent_large() {
            let mut pause = std::pin::pin!(tokio::time::sleep(LARGE_PAUSE));
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    () = relay.notify.notified() => relay.wake_due(),
                }
            }
            relay.next_large();
        }
    }
}

/// A delta that is made.
#[derive(Clone, Debug)]
pub(super) struct SharedDelta {
    /// From where.
    pub(super) base: Revision,
    /// To where.
    pub(super) position: Revision,
    /// Commits of the source when it was made.
    pub(super) commits: u64,
    /// As it is sent.
    pub(super) bytes: Bytes,
}

/// Where one watch waits.
#[derive(Debug, Default)]
struct Seat {
    /// A [`Wait`].
    wait: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Seat {
    fn wake(&self, reason: Wait) {
        if self.wait.load(Ordering::SeqCst) < reason as u8 {
            return;
        }
        self.wait.store(Wait::Nothing as u8, Ordering::SeqCst);
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }
}

/// What a watch wants to be woken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wait {
    /// It is awake.
    Nothing,
    /// The end alone: it holds its next delta back.
    End,
    /// A change, or the end.
    Change,
}

impl Audience {
    /// The head when one of the topics changed last.
    pub(crate) fn head(&self) -> Revision {
        Revision(self.head.load(Ordering::SeqCst))
    }

    /// One of the topics changed in the commits up to `head`, which are in the mirror.
    pub(crate) fn changed(&self, head: Revision) {
        self.head.fetch_max(head.0, Ordering::SeqCst);
        for part in &*self.parts.read() {
            if !part.due.swap(true, Ordering::SeqCst) {
                part.relay.due.lock().push(part.clone());
                part.relay.notify.notify_one();
            }
        }
    }

    /// Wakes everyone: the end has come.
    pub(crate) fn end(&self) {
        for part in &*self.parts.read() {
            part.wake(Wait::End);
        }
    }

    /// Takes a place, on the thread that calls.
    pub(super) fn join(self: Arc<Self>, relays: &Relays) -> Place {
        let relay = relays.here();
        let mut parts = self.parts.write();
        // Where everybody has left, the thread may be gone as well.
        parts.retain(|part| !part.seats.read().is_empty());
        let known = parts.iter().find(|part| Arc::ptr_eq(&part.relay, &relay));
        let part = known.cloned().unwrap_or_else(|| {
            let part = Arc::new(Part {
                relay,
                due: AtomicBool::new(false),
                next_seat: AtomicU64::new(0),
                seats: RwLock::default(),
                recent: Mutex::default(),
            });
            parts.push(part.clone());
            part
        });
        let number = part.next_seat.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat::default());
        part.seats.write().insert(number, seat.clone());
        drop(parts);
        Place {
            audience: self,
            part,
            number,
            seat,
            waker: None,
        }
    }

    /// Lets go of the deltas.
    pub(crate) fn forget(&self) {
        for part in &*self.parts.read() {
            *part.recent.lock() = VecDeque::new();
        }
    }
}

impl Part {
    fn wake(&self, reason: Wait) {
        for seat in self.seats.read().values() {
            seat.wake(reason);
        }
    }
}

/// A watch's place in its audience, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) audience: Arc<Audience>,
    part: Arc<Part>,
    number: u64,
    seat: Arc<Seat>,
    /// The waker that the seat has.
    waker: Option<Waker>,
}

impl Place {
    /// The delta from `base`, if it is made and nothing changed behind it.
    pub(super) fn recent(&self, base: Revision) -> Option<SharedDelta> {
        let recent = self.part.recent.lock();
        let delta = recent.iter().rev().find(|delta| delta.base == base)?;
        (delta.position >= self.audience.head()).then(|| delta.clone())
    }

    /// Keeps a delta for the others.
    pub(super) fn keep(&self, delta: SharedDelta) {
        // Nobody else is here to take it.
        if self.part.seats.read().len() < 2 {
            return;
        }
        let mut recent = self.part.recent.lock();
        recent.retain(|other| other.base != delta.base);
        recent.push_back(delta);
        let mut bytes: usize = recent.iter().map(|delta| delta.bytes.len()).sum();
        while recent.len() > RECENT || (bytes > RECENT_BYTES && recent.len() > 1) {
            bytes -= recent.pop_front().map_or(0, |delta| delta.bytes.len());
        }
    }

    /// Whether a large frame may be sent now; else the task is woken when it may.
    pub(super) fn large_turn(&self, context: &Context<'_>, bytes: usize) -> bool {
        self.part.relay.large_turn(context, bytes)
    }

    /// Wants to be woken, once, by what comes next; what came before this call is missed.
    pub(super) fn wait(&mut self, context: &Context<'_>, wait: Wait) {
        let known = self.waker.as_ref();
        if !known.is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
            (*self.seat.waker.lock()).clone_from(&self.waker);
        }
        self.seat.wait.store(wait as u8, Ordering::SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.part.seats.write().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::noop_waker;

    use super::*;

    fn delta(base: u64, position: u64, bytes: usize) -> SharedDelta {
        SharedDelta {
            base: Revision(base),
            position: Revision(position),
            commits: 0,
            bytes: vec![0; bytes].into(),
        }
    }

    fn placed() -> (Relays, Place) {
        let relays = Relays::default();
        let place = Arc::new(Audience::default()).join(&relays);
        (relays, place)
    }

    #[tokio::test]
    async fn who_is_alone_keeps_nothing() {
        let (relays, place) = placed();
        place.keep(delta(4, 5, 1));
        assert!(place.recent(Revision(4)).is_none());
        let _other = place.audience.clone().join(&relays);
        place.keep(delta(4, 5, 1));
        assert!(place.recent(Revision(4)).is_some());
    }

    #[tokio::test]
    async fn a_delta_is_shared_until_something_changes_behind_it() {
        let (relays, place) = placed();
        let _other = place.audience.clone().join(&relays);
        place.audience.changed(Revision(5));
        place.keep(delta(4, 5, 1));
        assert!(place.recent(Revision(4)).is_some());
        assert!(place.recent(Revision(3)).is_none());
        place.audience.changed(Revision(7));
        assert!(place.recent(Revision(4)).is_none());
        place.keep(delta(4, 7, 1));
        assert_eq!(place.recent(Revision(4)).unwrap().position, Revision(7));
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_by_number_and_by_bytes() {
        let (relays, place) = placed();
        let _other = place.audience.clone().join(&relays);
        for base in 0..100 {
            place.keep(delta(base, 100, 1));
        }
        assert_eq!(place.part.recent.lock().len(), RECENT);
        place.keep(delta(200, 201, RECENT_BYTES));
        assert_eq!(place.part.recent.lock().len(), 1);
        place.keep(delta(300, 301, 2 * RECENT_BYTES));
        let kept: Vec<_> = place.part.recent.lock().iter().map(|d| d.base).collect();
        assert_eq!(kept, [Revision(300)]);
        place.audience.forget();
        assert!(place.recent(Revision(300)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn large_frames_take_turns_and_who_leaves_the_line_stops_nobody() {
        let (_relays, place) = placed();
        let turn = || place.large_turn(&Context::from_waker(&noop_waker()), LARGE_BYTES / 2);
        assert!(turn() && turn());
        // Four wait, two for each turn, and never come back.
        for _ in 0..4 {
            assert!(!turn());
        }
        let waiting = || place.part.relay.large.lock().waiting.len();
        for left in [2, 0] {
            while waiting() > left {
                tokio::time::sleep(LARGE_PAUSE / 10).await;
            }
            assert_eq!(waiting(), left);
        }
        tokio::time::sleep(4 * LARGE_PAUSE).await;
        assert!(!place.part.relay.sent_large());
        assert!(turn());
    }

    #[tokio::test]
    async fn a_change_wakes_who_waits_for_one_and_the_end_wakes_all() {
        let (_relays, mut place) = placed();
        let (audience, seat, part) = (
            place.audience.clone(),
            place.seat.clone(),
            place.part.clone(),
        );
        let mut wait = |wait| place.wait(&Context::from_waker(&noop_waker()), wait);
        let waits = || seat.wait.load(Ordering::SeqCst);
        let told = async || {
            while part.due.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
        };
        wait(Wait::Change);
        audience.changed(Revision(9));
        told().await;
        assert_eq!(waits(), Wait::Nothing as u8);
        wait(Wait::End);
        audience.changed(Revision(10));
        told().await;
        assert_eq!(waits(), Wait::End as u8);
        audience.end();
        assert_eq!(waits(), Wait::Nothing as u8);
        wait(Wait::Change);
        audience.end();
        assert_eq!(waits(), Wait::Nothing as u8);
    }

    #[tokio::test]
    async fn the_head_never_goes_back_and_a_place_is_given_back() {
        let (_relays, place) = placed();
        let audience = place.audience.clone();
        audience.changed(Revision(9));
        audience.changed(Revision(8));
        assert_eq!(audience.head(), Revision(9));
        let part = place.part.clone();
        drop(place);
        assert!(part.seats.read().is_empty());
    }
}
