//! The other half of a watch: the stream that resumes for ever, for all that can be watched alike.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::{Stream, future::BoxFuture, stream};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Code, Response, Status, Streaming};

use super::{
    backoff::Backoff,
    connection::Client,
    error::Error,
    task::std_duration,
    watch_core::{Frame, Step, View, WatchCore},
};
use crate::proto::v1::{Position, WatchOptions, WatchReset};

/// What the server sends at least something in, until it says otherwise.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(15);
/// So many heartbeats of silence end a stream.
const SILENT_HEARTBEATS: u32 = 3;
/// Waits after a planned end are at most this, whatever the server asks for.
const LONGEST_RECONNECT: Duration = Duration::from_secs(60);

/// What is watched: the one thing that differs between states, tasks and errors.
pub trait WatchKind: Send + Sync + Unpin + 'static {
    /// The frames' message.
    type Response: Send + 'static;
    /// What they are folded into.
    type View: View;
    /// The call's name, for errors.
    #[doc(hidden)]
    const OPERATION: &'static str;

    /// Opens a stream with these options.
    #[doc(hidden)]
    fn open(
        &self,
        client: &Client,
        options: WatchOptions,
    ) -> BoxFuture<'static, Result<Response<Streaming<Self::Response>>, Status>>;

    /// Whether the caller asked for an end.
    #[doc(hidden)]
    fn may_end(&self) -> bool;
}

/// Turns the message into the frames that all watches share.
pub(crate) trait Framed: WatchKind {
    fn frame(&self, response: Self::Response) -> Option<Frame<<Self::View as View>::Change>>;
}

/// Where a watch starts.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum WatchStart {
    /// With everything there is.
    #[default]
    Snapshot,
    /// With what changed after a position that a write, a list or an earlier watch gave.
    From(Position),
    /// With what changes from now on.
    Live,
}

/// What happened to a watched view.
#[derive(Debug, Clone)]
pub enum WatchEvent<C> {
    /// The view equals the server's at `position`: once after each start and each resume.
    Synced {
        /// Where the view stands.
        position: Position,
    },
    /// These changes carried the view to `position`; they are already in it.
    Changed {
        /// The changes, each entry's last value.
        changes: Vec<C>,
        /// Where the view stands.
        position: Position,
        /// How many commits these stand for.
        folded_commits: i32,
    },
    /// The view was dropped and is filled anew; `Synced` follows. With a reason when the server
    /// said one, without when the frames did not chain.
    Reset {
        /// The server's word.
        reset: Option<WatchReset>,
    },
    /// The stream broke; it resumes after `wait`.
    Reconnecting {
        /// What broke it; none for an end that the server had announced.
        error: Option<Error>,
        /// How long until the next attempt.
        wait: Duration,
    },
}

type Opening<R> = BoxFuture<'static, Result<Response<Streaming<R>>, Status>>;

enum Line<R> {
    Waiting(Instant),
    Opening(Opening<R>, Instant),
    Open(Box<Streaming<R>>),
    Over,
}

/// A view of the server's side that is kept up for ever, through every reconnect.
///
/// Call [`next`](Self::next) in a loop; between calls [`view`](Self::view) is consistent: it equals
/// the server's at [`position`](Self::revision).
#[must_use = "a watch does nothing until `next` is called"]
pub struct Watch<K: WatchKind> {
    client: Client,
    kind: K,
    options: WatchOptions,
    core: WatchCore<K::View>,
    line: Line<K::Response>,
    backoff: Backoff,
    heartbeat: Duration,
    heard: Instant,
    /// The wait that the server announced with its end.
    closing: Option<Duration>,
    reconnects: u64,
    broken_chains: u64,
    /// The last stream's frames did not chain, and nothing since has shown that this one's do.
    mistrusted: bool,
}

#[expect(
    private_bounds,
    reason = "what can be watched is the API's to say, and it is all here"
)]
impl<K: Framed> Watch<K> {
    pub(super) fn new(
        client: Client,
        kind: K,
        mut options: WatchOptions,
        start: &WatchStart,
    ) -> Self {
        let core = match start {
            WatchStart::Snapshot => WatchCore::default(),
            WatchStart::From(position) => WatchCore::from_position(position),
            WatchStart::Live => {
                options.updates_only = true;
                WatchCore::default()
            }
        };
        Self {
            client,
            kind,
            options,
            core,
            line: Line::Waiting(Instant::now()),
            backoff: Backoff::for_streams(),
            heartbeat: DEFAULT_HEARTBEAT,
            heard: Instant::now(),
            closing: None,
            reconnects: 0,
            broken_chains: 0,
            mistrusted: false,
        }
    }

    /// Everything watched, as it was at the last event.
    pub fn view(&self) -> &K::View {
        self.core.view()
    }

    /// The revision that the view stands at; none before the first `Synced`.
    pub fn revision(&self) -> Option<i64> {
        self.core.revision()
    }

    /// The token to start a watch of the same things with, in another process say.
    pub fn resume_token(&self) -> bytes::Bytes {
        self.core.token()
    }

    /// How often a stream had to be opened again.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// How often frames did not chain and the view was fetched anew: 0, or a bug.
    pub fn broken_chains(&self) -> u64 {
        self.broken_chains
    }

    /// The next event. None when the end that was asked for has come, or after an error. Cancel
    /// safe: a call that is dropped loses nothing.
    ///
    /// # Errors
    ///
    /// What no reconnect can mend, such as a wrong name.
    pub async fn next(&mut self) -> Option<Result<WatchEvent<<K::View as View>::Change>, Error>> {
        loop {
            let step = match &mut self.line {
                Line::Over => return None,
                Line::Waiting(until) => {
                    sleep_until(*until).await;
                    self.line =
                        Line::Opening(self.open(), Instant::now() + Duration::from_secs(10));
                    continue;
                }
                Line::Opening(opening, until) => match timeout_at(*until, opening).await {
                    Ok(Ok(response)) => {
                        self.heard = Instant::now();
                        self.line = Line::Open(Box::new(response.into_inner()));
                        continue;
                    }
                    Ok(Err(status)) => Err(self.lost(&status)),
                    Err(_) => Err(self.silent("the stream was not opened in time")),
                },
                Line::Open(stream) => {
                    let watchdog = self.heard + self.heartbeat * SILENT_HEARTBEATS;
                    match timeout_at(watchdog, stream.message()).await {
                        Ok(Ok(Some(response))) => Ok(response),
                        Ok(Ok(None)) if self.kind.may_end() && self.closing.is_none() => {
                            self.line = Line::Over;
                            return None;
                        }
                        Ok(Ok(None)) => Err(self.silent("the server ended the stream")),
                        Ok(Err(status)) => Err(self.lost(&status)),
                        Err(_) => Err(self.silent("nothing was heard for three heartbeats")),
                    }
                }
            };
            let event = match step {
                Ok(response) => {
                    self.heard = Instant::now();
                    match self.kind.frame(response) {
                        Some(frame) => self.on_frame(frame),
                        // A frame of a newer server.
                        None => None,
                    }
                }
                Err(error) => Some(self.on_break(error)),
            };
            if let Some(event) = event {
                return Some(event);
            }
        }
    }

    /// The events as a stream, for those who do not need the view.
    pub fn into_stream(
        self,
    ) -> impl Stream<Item = Result<WatchEvent<<K::View as View>::Change>, Error>> + Send
    where
        Self: Send,
    {
        stream::unfold(self, |mut watch| async move {
            let event = watch.next().await?;
            Some((event, watch))
        })
    }

    fn open(&self) -> Opening<K::Response> {
        let mut options = self.options.clone();
        options.resume_token = self.core.token();
        if !options.resume_token.is_empty() {
            options.updates_only = false;
        }
        self.kind.open(&self.client, options)
    }

    fn lost(&self, status: &Status) -> Error {
        Error::from_status(K::OPERATION, status)
    }

    fn silent(&self, message: &str) -> Error {
        Error::new(K::OPERATION, Code::Unavailable, "STREAM_BROKEN", message)
    }

    fn on_frame(
        &mut self,
        frame: Frame<<K::View as View>::Change>,
    ) -> Option<Result<WatchEvent<<K::View as View>::Change>, Error>> {
        if let Frame::Opened(opened) = &frame
            && let Some(heartbeat) = std_duration(opened.heartbeat_interval.as_ref())
            && !heartbeat.is_zero()
        {
            self.heartbeat = heartbeat;
        }
        let follows = matches!(frame, Frame::Delta { .. } | Frame::Bookmark(_));
        let is_progress = follows || (matches!(frame, Frame::Synced(_)) && !self.mistrusted);
        let step = self.core.on_frame(frame);
        if is_progress && step.is_ok() {
            self.mistrusted = false;
            self.backoff.reset();
        }
        let event = match step {
            Ok(Step::Nothing | Step::Opened { .. }) => return None,
            Ok(Step::Synced { position }) => WatchEvent::Synced { position },
            Ok(Step::Changed {
                changes,
                position,
                folded_commits,
            }) => WatchEvent::Changed {
                changes,
                position,
                folded_commits,
            },
            Ok(Step::Reset(reset)) => WatchEvent::Reset { reset: Some(reset) },
            Ok(Step::Closing(closing)) => {
                let wait = std_duration(closing.reconnect_after.as_ref()).unwrap_or_default();
                self.closing = Some(wait.min(LONGEST_RECONNECT));
                return None;
            }
            Err(broken) => {
                self.broken_chains += 1;
                tracing::warn!(
                    watch.operation = K::OPERATION,
                    error.message = broken.0,
                    "watch frames did not chain, starting over"
                );
                // A server that breaks each chain is not asked for its snapshot at full speed.
                self.mistrusted = true;
                let wait = self.backoff.next_wait();
                self.start_over(wait);
                WatchEvent::Reset { reset: None }
            }
        };
        Some(Ok(event))
    }

    fn start_over(&mut self, wait: Duration) {
        self.core.forget();
        self.options.updates_only = false;
        self.reconnects += 1;
        self.line = Line::Waiting(Instant::now() + wait);
    }

    fn on_break(&mut self, error: Error) -> Result<WatchEvent<<K::View as View>::Change>, Error> {
        let held_token = !self.core.token().is_empty();
        self.core.on_disconnect();
        let announced = self.closing.take();
        let stale = matches!(error.reason(), "RESUME_TOKEN_MALFORMED" | "EPOCH_CHANGED");
        if stale && held_token {
            let wait = self.backoff.next_wait();
            self.start_over(wait);
            return Ok(WatchEvent::Reset { reset: None });
        }
        let compacted = error.reason() == "REVISION_COMPACTED";
        if error.ends_streams() || compacted {
            self.line = Line::Over;
            return Err(error);
        }
        let (wait, error) = match announced {
            Some(wait) => (wait, None),
            None => {
                let wait = error.retry_after().unwrap_or_default() + self.backoff.next_wait();
                (wait, Some(error))
            }
        };
        self.reconnects += 1;
        self.line = Line::Waiting(Instant::now() + wait);
        Ok(WatchEvent::Reconnecting { error, wait })
    }
}

impl<K: WatchKind> std::fmt::Debug for Watch<K> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Watch")
            .field("operation", &K::OPERATION)
            .field("revision", &self.core.revision())
            .field("reconnects", &self.reconnects)
            .finish_non_exhaustive()
    }
}

/// Makes a stream opening out of a service client's call.
pub(super) fn opening<R, F>(call: F) -> Opening<R>
where
    R: Send + 'static,
    F: Future<Output = Result<Response<Streaming<R>>, Status>> + Send + 'static,
{
    let call: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(call);
    call
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
