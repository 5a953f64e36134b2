//! Large values and large frames of a watch: fetched when their frame is next, sent in turns.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{super::Frame, Source, Watch};
use crate::{
    domain::{Error, Reason},
    runtime::{TaskError, TaskHandle, create_library_task},
};

/// Frames larger than this take turns, so that small ones are not behind many of them.
const LARGE_FRAME: usize = 64 << 10;

/// A large value on its way. It is read by a task of its own: a watch whose client has no room is
/// not polled, and must not hold one of the few reads open meanwhile.
pub(super) type Fetching = TaskHandle<Result<Option<Bytes>, Error>>;

impl<S: Source> Watch<S> {
    /// Fetches what the next frame lacks. Only then, so that a watch never holds more than one
    /// frame of large values, and with the mirror let go of.
    pub(super) fn complete_next(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(Frame::Snapshot(items) | Frame::Delta { items, .. }) = self.ready.front_mut()
        else {
            return Poll::Ready(Ok(()));
        };
        for item in items {
            let Some(at) = S::missing(item) else { continue };
            let found = match self.shared.values.at_hand(at) {
                Some(value) => Some(value),
                None => {
                    let shared = &self.shared;
                    let fetching = self.fetching.get_or_insert_with(|| {
                        let shared = shared.clone();
                        create_library_task("read a value back", async move {
                            shared.values.get(at).await
                        })
                    });
                    let fetched = ready!(Pin::new(fetching).poll(context));
                    self.fetching = None;
                    fetched.unwrap_or_else(|error| Err(broken_off(&error)))?
                }
            };
            self.fetching = None;
            S::complete(item, found);
        }
        Poll::Ready(Ok(()))
    }

    /// Gives items the values they lack, as far as those are at hand; true: nothing lacks any more.
    pub(super) fn complete_at_hand(&self, items: &mut [S::Item]) -> bool {
        items.iter_mut().all(|item| {
            let Some(at) = S::missing(item) else {
                return true;
            };
            let value = self.shared.values.at_hand(at);
            let found = value.is_some();
            if found {
                S::complete(item, value);
            }
            found
        })
    }

    /// Whether a frame of so many bytes may be sent now. Who has waited for its turn has it when it
    /// is woken; one who is woken by something else is early by that much.
    pub(super) fn has_turn(&mut self, context: &Context<'_>, size: usize) -> bool {
        let turn = std::mem::take(&mut self.in_line)
            || size <= LARGE_FRAME
            || self.place.large_turn(context, size);
        self.in_line = !turn;
        turn
    }
}

/// About how many bytes a frame has; nothing that is not made of items is large.
pub(super) fn size_of_frame<S: Source>(frame: &Frame<S::Item>) -> usize {
    match frame {
        Frame::Encoded(bytes) => bytes.len(),
        Frame::Snapshot(items) | Frame::Delta { items, .. } => items.iter().map(S::size).sum(),
        _ => 0,
    }
}

fn broken_off(error: &TaskError) -> Error {
    Error::new(
        Reason::Internal,
        format!("reading a large value back broke off: {error}"),
    )
}
