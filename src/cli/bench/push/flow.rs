//! One writer's stream: as much unacknowledged as the server's window permits, never more.
//!
//! There is no channel between the writer and the connection: when HTTP/2 has room it polls the
//! stream, and only then is the next frame made, of all that may be sent by then.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use futures_util::Stream;
use parking_lot::Mutex;

use super::super::payload::{BatchSource, PushFrame};
use crate::proto::v1;

/// What one writer has sent and what the server has said to it.
#[derive(Debug)]
pub(in crate::cli::bench) struct Flow {
    source: Arc<BatchSource>,
    limits: Limits,
    state: Mutex<FlowState>,
}

#[derive(Debug, Clone, Copy)]
pub(in crate::cli::bench) struct Limits {
    /// Most batches of one frame.
    pub(in crate::cli::bench) per_frame: u64,
    /// Most batches without an acknowledgement, where the server's window is wider.
    pub(in crate::cli::bench) in_flight: u64,
    /// The flow stops by itself after so many batches.
    pub(in crate::cli::bench) total: u64,
    /// Says that nothing is ready after each frame, so that each leaves in an HTTP/2 frame of its
    /// own: tonic packs what is ready at once into one.
    pub(in crate::cli::bench) one_by_one: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_frame: 64,
            in_flight: u64::MAX,
            total: u64::MAX,
            one_by_one: false,
        }
    }
}

#[derive(Debug, Default)]
struct FlowState {
    /// Not sent yet; there is no window before the server has given one.
    open: Option<PushFrame>,
    /// Batches that may be unacknowledged, by count and by bytes at the largest batch.
    window: u64,
    sent: u64,
    acked: u64,
    frames: u64,
    stopped: bool,
    /// Nothing is sent meanwhile; what is out is acknowledged all the same.
    held: bool,
    /// The frame before has just been given out.
    breathing: bool,
    /// Last batch of each unacknowledged frame and when it was sent.
    times: VecDeque<(u64, Instant)>,
    waker: Option<Waker>,
}

/// What an acknowledgement was worth.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli::bench) struct Acked {
    pub(in crate::cli::bench) batches: u64,
    /// When the frames that it covers were sent.
    pub(in crate::cli::bench) frames_sent_at: Vec<Instant>,
}

impl Flow {
    pub(in crate::cli::bench) fn new(
        source: Arc<BatchSource>,
        open: PushFrame,
        limits: Limits,
    ) -> Arc<Self> {
        let state = Mutex::new(FlowState {
            open: Some(open),
            ..FlowState::default()
        });
        Arc::new(Self {
            source,
            limits,
            state,
        })
    }

    /// The frames, for as long as the flow is not stopped.
    pub(in crate::cli::bench) fn frames(self: &Arc<Self>) -> Frames {
        Frames(Arc::clone(self))
    }

    /// Takes the window that the server told. It is never 0; one that is, is taken as 1.
    pub(in crate::cli::bench) fn set_window(&self, window: &v1::PushWindow) {
        let batches = u64::try_from(window.max_unacked_batches).unwrap_or(0);
        let bytes = u64::try_from(window.max_unacked_bytes).unwrap_or(0);
        // No limit in bytes is what absence means.
        let by_bytes = match bytes {
            0 => u64::MAX,
            _ => bytes / self.source.largest_batch() as u64,
        };
        self.change(|state| state.window = batches.min(by_bytes).min(self.limits.in_flight).max(1));
    }

    /// Takes a cumulative acknowledgement; `None` when it is for what was never sent.
    pub(in crate::cli::bench) fn acknowledge(&self, sequence: u64) -> Option<Acked> {
        self.change(|state| {
            if sequence > state.sent {
                return None;
            }
            let batches = sequence.saturating_sub(state.acked);
            state.acked += batches;
            let acked = state.acked;
            let mut frames_sent_at = Vec::new();
            while let Some(&(_, at)) = state.times.front().filter(|(last, _)| *last <= acked) {
                frames_sent_at.push(at);
                state.times.pop_front();
            }
            Some(Acked {
                batches,
                frames_sent_at,
            })
        })
    }

    /// Sends nothing more; what is sent stays to be acknowledged.
    pub(in crate::cli::bench) fn stop(&self) {
        self.change(|state| state.stopped = true);
    }

    /// Sends nothing until let go again; the stream stays open.
    pub(in crate::cli::bench) fn hold(&self, held: bool) {
        self.change(|state| state.held = held);
    }

    /// Whether all that was sent is acknowledged.
    pub(in crate::cli::bench) fn is_settled(&self) -> bool {
        let state = self.state.lock();
        state.acked == state.sent
    }

    /// Whether all that will ever be sent is acknowledged.
    pub(in crate::cli::bench) fn is_done(&self) -> bool {
        let state = self.state.lock();
        state.stopped && state.acked == state.sent
    }

    /// Batches and frames sent so far.
    pub(in crate::cli::bench) fn sent(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.sent, state.frames)
    }

    fn change<T>(&self, change: impl FnOnce(&mut FlowState) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }
}

/// The request side of the stream.
#[derive(Debug)]
pub(in crate::cli::bench) struct Frames(Arc<Flow>);

impl Stream for Frames {
    type Item = PushFrame;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PushFrame>> {
        let flow = &self.0;
        let mut state = flow.state.lock();
        if let Some(open) = state.open.take() {
            return Poll::Ready(Some(open));
        }
        state.stopped |= state.sent == flow.limits.total;
        if state.stopped {
            return Poll::Ready(None);
        }
        if flow.limits.one_by_one && std::mem::replace(&mut state.breathing, false) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = state.window.saturating_sub(state.sent - state.acked);
        let count = room
            .min(flow.limits.per_frame)
            .min(flow.limits.total - state.sent);
        if count == 0 || state.held {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let first = state.sent + 1;
        state.sent += count;
        state.frames += 1;
        state.breathing = true;
        let last = state.sent;
        state.times.push_back((last, Instant::now()));
        drop(state);
        Poll::Ready(Some(flow.source.frame(first, count as usize)))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn flow(per_frame: u64, in_flight: u64) -> (Arc<Flow>, Frames) {
        let source = Arc::new(BatchSource::new());
        let open = PushFrame::open("namespaces/default/states/a", 1);
        let limits = Limits {
            per_frame,
            in_flight,
            ..Limits::default()
        };
        let flow = Flow::new(source, open, limits);
        let frames = flow.frames();
        (flow, frames)
    }

    fn window(batches: i32, bytes: i64) -> v1::PushWindow {
        v1::PushWindow {
            max_unacked_batches: batches,
            max_unacked_bytes: bytes,
        }
    }

    /// How many batches each frame that can be had now carries.
    fn ready(frames: &mut Frames) -> Vec<usize> {
        std::iter::from_fn(|| frames.next().now_or_never().flatten())
            .map(|f| f.len())
            .collect()
    }

    #[test]
    fn nothing_but_the_open_frame_is_sent_before_there_is_a_window() {
        let (flow, mut frames) = flow(64, u64::MAX);
        assert_eq!(ready(&mut frames), [0]);
        flow.set_window(&window(10, 0));
        assert_eq!(ready(&mut frames), [10]);
    }

    #[test]
    fn the_window_is_filled_in_full_frames_and_no_further() {
        let (flow, mut frames) = flow(4, u64::MAX);
        flow.set_window(&window(10, 0));
        assert_eq!(ready(&mut frames), [0, 4, 4, 2]);
        let acked = flow.acknowledge(5).unwrap();
        assert_eq!((acked.batches, acked.frames_sent_at.len()), (5, 1));
        assert_eq!(ready(&mut frames), [4, 1]);
        assert_eq!(flow.sent(), (15, 5));
    }

    #[test]
    fn a_window_in_bytes_binds_too_and_never_closes() {
        let (flow, mut frames) = flow(64, u64::MAX);
        let largest = flow.source.largest_batch() as i64;
        flow.set_window(&window(1_000, 3 * largest + 1));
        assert_eq!(ready(&mut frames), [0, 3]);
        flow.acknowledge(3).unwrap();
        flow.set_window(&window(0, 1));
        assert_eq!(ready(&mut frames), [1]);
    }

    #[test]
    fn our_own_limit_holds_where_the_window_is_wider() {
        let (flow, mut frames) = flow(64, 1);
        flow.set_window(&window(1_000, 0));
        assert_eq!(ready(&mut frames), [0, 1]);
        flow.acknowledge(1).unwrap();
        assert_eq!(ready(&mut frames), [1]);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_noticed_and_an_old_one_is_worth_nothing() {
        let (flow, mut frames) = flow(64, u64::MAX);
        flow.set_window(&window(2, 0));
        ready(&mut frames);
        assert_eq!(flow.acknowledge(3), None);
        assert_eq!(flow.acknowledge(2).unwrap().batches, 2);
        let nothing = Acked {
            batches: 0,
            frames_sent_at: vec![],
        };
        assert_eq!(flow.acknowledge(1), Some(nothing));
    }

    #[test]
    fn after_the_stop_the_stream_ends_and_waits_for_what_is_out() {
        let (flow, mut frames) = flow(64, u64::MAX);
        flow.set_window(&window(2, 0));
        ready(&mut frames);
        flow.stop();
        assert_eq!(
            frames.next().now_or_never().map(|frame| frame.is_none()),
            Some(true)
        );
        assert!(!flow.is_done());
        flow.acknowledge(2).unwrap();
        assert!(flow.is_done());
    }

    #[test]
    fn a_held_flow_sends_nothing_and_goes_on_where_it_was() {
        let (flow, mut frames) = flow(64, 2);
        flow.set_window(&window(10, 0));
        assert_eq!(ready(&mut frames), [0, 2]);
        flow.hold(true);
        assert!(!flow.is_settled());
        flow.acknowledge(2).unwrap();
        assert!(flow.is_settled());
        assert_eq!(ready(&mut frames), [0_usize; 0]);
        flow.hold(false);
        assert_eq!(ready(&mut frames), [2]);
    }

    #[test]
    fn a_flow_with_a_total_ends_by_itself_and_one_by_one_pauses_after_each_frame() {
        let limits = Limits {
            per_frame: 1,
            total: 3,
            one_by_one: true,
            ..Limits::default()
        };
        let open = PushFrame::open("namespaces/default/states/a", 1);
        let flow = Flow::new(Arc::new(BatchSource::small()), open, limits);
        let mut frames = flow.frames();
        flow.set_window(&window(10, 0));
        let polled: Vec<_> = (0..7)
            .map(|_| {
                frames
                    .next()
                    .now_or_never()
                    .map(|frame| frame.map(|f| f.len()))
            })
            .collect();
        let one = Some(Some(1));
        let expected = [Some(Some(0)), one, None, one, None, one, Some(None)];
        assert_eq!(polled, expected);
        flow.acknowledge(3).unwrap();
        assert!(flow.is_done());
    }
}
