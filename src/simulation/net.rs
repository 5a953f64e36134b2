//! Virtual time and the transport: what is on its way, and when it arrives.
//!
//! Everything that happens outside the server is an event at a millisecond of its own; between two
//! events everything inside the server runs until it waits. So a seed decides the whole run. What
//! is sent on one *lane* (one direction of a stream) arrives in order, as HTTP/2 has it; lanes
//! overtake each other.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::event::Event;

/// Lanes whose order of events at the same time is fixed by their number.
pub(super) type LaneId = u32;

/// What is on its way. Clones are the same.
#[derive(Clone)]
pub(super) struct Net {
    start: Instant,
    shared: Arc<Mutex<Shared>>,
    news: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    /// By arrival, lane and number on the lane.
    events: BTreeMap<(u64, LaneId, u64), Event>,
    sent: BTreeMap<LaneId, u64>,
    last_ms: u64,
}

impl Net {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            shared: Arc::default(),
            news: Arc::default(),
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).expect("a simulation is short")
    }

    /// Something is to happen in so long.
    pub(super) fn post(&self, lane: LaneId, in_ms: u64, event: Event) {
        self.post_at(lane, self.now_ms() + in_ms.max(1), event);
    }

    fn post_at(&self, lane: LaneId, at_ms: u64, event: Event) {
        let mut shared = self.shared.lock();
        let sent = shared.sent.entry(lane).or_default();
        *sent += 1;
        let place = (at_ms, lane, *sent);
        shared.events.insert(place, event);
        drop(shared);
        self.news.notify_one();
    }

    /// The next event, when its time has come.
    pub(super) async fn next(&self) -> Event {
        loop {
            let due = {
                let shared = self.shared.lock();
                let first = shared.events.keys().next().map(|(at, ..)| *at);
                first.map(|at| at.max(shared.last_ms + 1))
            };
            let Some(due) = due else {
                self.news.notified().await;
                continue;
            };
            if due <= self.now_ms() {
                let mut shared = self.shared.lock();
                shared.last_ms = self.now_ms();
                let (_, event) = shared.events.pop_first().expect("one is due");
                return event;
            }
            tokio::select! {
                biased;
                () = sleep_until(self.start + Duration::from_millis(due)) => {}
                () = self.news.notified() => {}
            }
        }
    }
}

/// How long things take on a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) usual_ms: u64,
    pub(super) spike_ms: u64,
}

impl Pace {
    pub(super) fn draw(self, rng: &mut Rng) -> u64 {
        if self.spike_ms > 0 && rng.u8(..50) == 0 {
            1 + rng.u64(0..=self.spike_ms)
        } else {
            1 + rng.u64(0..=self.usual_ms)
        }
    }
}

/// One direction of a stream.
pub(super) struct Lane {
    pub(super) id: LaneId,
    net: Net,
    rng: Rng,
    pace: Pace,
    last_ms: u64,
}

impl Lane {
    pub(super) fn new(id: LaneId, net: Net, rng: Rng, pace: Pace) -> Self {
        Self {
            id,
            net,
            rng,
            pace,
            last_ms: 0,
        }
    }

    /// Sends: it arrives after everything sent before on this lane.
    pub(super) fn send(&mut self, event: Event) {
        let at = self.net.now_ms() + self.pace.draw(&mut self.rng);
        self.last_ms = at.max(self.last_ms);
        self.net.post_at(self.id, self.last_ms, event);
    }

    /// Nothing arrives for so long; then all of it, in order.
    pub(super) fn stall(&mut self, for_ms: u64) {
        self.last_ms = self.last_ms.max(self.net.now_ms() + for_ms);
    }
}
