//! How many streams may be open: tonic's own limits count calls until they are answered, and a
//! stream is answered as it begins. A permit lives in the stream and is given back with it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{Error, Reason};

/// Watches open at once in one process. Each costs a few KiB in buffers.
pub const MAX_WATCHES: usize = 20_000;
/// Push streams open at once in one process. Each may pin a window of 4 MiB.
pub const MAX_PUSHES: usize = 4_096;

/// The permits of one process.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    watches: Arc<Semaphore>,
    pushes: Arc<Semaphore>,
    backups: Arc<Semaphore>,
}

impl Default for Streams {
    fn default() -> Self {
        Self::new(MAX_WATCHES, MAX_PUSHES)
    }
}

impl Streams {
    fn new(watches: usize, pushes: usize) -> Self {
        Self {
            watches: Arc::new(Semaphore::new(watches)),
            pushes: Arc::new(Semaphore::new(pushes)),
            backups: Arc::new(Semaphore::new(1)),
        }
    }

    /// For a watch; at once or not at all.
    pub(super) fn watch(&self) -> Result<OwnedSemaphorePermit, Error> {
        take(&self.watches, "watches", MAX_WATCHES)
    }

    /// For a push stream; at once or not at all.
    pub(super) fn push(&self) -> Result<OwnedSemaphorePermit, Error> {
        take(&self.pushes, "push streams", MAX_PUSHES)
    }

    /// For a backup, of which there is one at a time.
    pub(super) fn backup(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permit = self.backups.clone().try_acquire_owned();
        permit.map_err(|_| {
            Error::new(
                Reason::TooManyStreams,
                "a backup is being made, and there is one at a time: retry when it is finished",
            )
            .with("limit", 1)
        })
    }
}

fn take(permits: &Arc<Semaphore>, what: &str, most: usize) -> Result<OwnedSemaphorePermit, Error> {
    permits.clone().try_acquire_owned().map_err(|_| {
        Error::new(
            Reason::TooManyStreams,
            format!("{most} {what} are open, which is as many as one server takes: retry later or close some"),
        )
        .with("limit", most)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_comes_back_with_its_stream() {
        let streams = Streams::new(1, 1);
        let open = streams.watch().unwrap();
        assert_eq!(streams.watch().unwrap_err().reason, Reason::TooManyStreams);
        assert!(streams.push().is_ok());
        let backup = streams.backup().unwrap();
        assert_eq!(streams.backup().unwrap_err().reason, Reason::TooManyStreams);
        drop(backup);
        assert!(streams.backup().is_ok());
        drop(open);
        assert!(streams.watch().is_ok());
    }
}
