//! What every watch of the command line does about its connection.

use super::Error;
use crate::client::WatchEvent;

/// Whether a watch has come to its first view.
#[derive(Debug, Default)]
pub(super) struct Watching {
    synced: bool,
}

impl Watching {
    /// Whether `event` is the first view, or the first after the server dropped the last one. A
    /// server that does not answer at all is an error before that, and said and waited for after.
    pub(super) fn look<C>(&mut self, event: &WatchEvent<C>) -> Result<bool, Error> {
        match event {
            WatchEvent::Synced { .. } => Ok(!std::mem::replace(&mut self.synced, true)),
            WatchEvent::Changed { .. } => Ok(false),
            WatchEvent::Reset { .. } => {
                self.synced = false;
                Ok(false)
            }
            WatchEvent::Reconnecting {
                error: Some(error), ..
            } if !self.synced => Err(error.clone().into()),
            WatchEvent::Reconnecting { error, wait } => {
                let why = error
                    .as_ref()
                    .map_or("the server ended the stream", |error| error.message());
                tracing::warn!(wait_s = wait.as_secs_f64(), "connection lost: {why}");
                Ok(false)
            }
        }
    }
}
