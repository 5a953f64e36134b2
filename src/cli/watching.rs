//! What every watch of the command line does about its connection.

mod print;

use std::time::Duration;

use clap::Args;

pub(super) use self::print::{Frames, Shown, Told, show};
use super::Error;
use crate::client::{Framed, WatchBuilder, WatchEvent};

/// Least time between two redraws.
const REDRAW: Duration = Duration::from_millis(100);

/// How a watch starts and paces itself.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct PaceArgs {
    /// Show changes at most so often, at most 10s apart; what changes meanwhile is shown once, as it
    /// then is
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    every: Option<Duration>,
    /// Show only what changes from now on
    #[arg(long)]
    updates_only: bool,
}

impl PaceArgs {
    /// The least time between two deltas; none: as fast as they come.
    fn interval(self, on_terminal: bool) -> Option<Duration> {
        self.every.or(on_terminal.then_some(REDRAW))
    }

    /// Whether anything was asked for.
    pub(super) fn is_given(self) -> bool {
        self.every.is_some() || self.updates_only
    }

    /// Tells a watch.
    pub(super) fn of<K: Framed>(
        self,
        mut watch: WatchBuilder<K>,
        on_terminal: bool,
    ) -> WatchBuilder<K> {
        if let Some(interval) = self.interval(on_terminal) {
            watch = watch.min_delta_interval(interval);
        }
        if self.updates_only {
            watch = watch.updates_only();
        }
        watch
    }
}

/// Whether a watch has come to its first view.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// It has had a view at all.
    answered: bool,
    /// What it has is a view.
    synced: bool,
    line: Line,
}

/// What an event means to whoever prints it.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// It is the first view, or the first after the last one was dropped.
    pub(super) is_first: bool,
    /// A line for people, on standard error.
    pub(super) note: Option<String>,
}

impl Watching {
    /// A server that does not answer at all is an error before the first view, and said and waited
    /// for after it.
    pub(super) fn look<C>(&mut self, event: &WatchEvent<C>) -> Result<Look, Error> {
        let mut is_first = false;
        match event {
            WatchEvent::Synced { .. } => {
                self.answered = true;
                is_first = !std::mem::replace(&mut self.synced, true);
            }
            WatchEvent::Changed { .. } => {}
            WatchEvent::Reset { .. } => self.synced = false,
            WatchEvent::Reconnecting {
                error: Some(error), ..
            } if !self.answered => return Err(error.clone().into()),
            WatchEvent::Reconnecting { .. } => {}
        }
        let note = self.line.note(event);
        Ok(Look { is_first, note })
    }
}

/// The connection as people hear of it: once when it is lost, once when it is back.
#[derive(Debug, Default)]
pub(super) struct Line {
    lost: bool,
}

impl Line {
    /// What there is to say. An end that the server announced is nothing if the next stream opens.
    pub(super) fn note<C>(&mut self, event: &WatchEvent<C>) -> Option<String> {
        match event {
            WatchEvent::Reconnecting {
                error: Some(error), ..
            } if !self.lost => {
                self.lost = true;
                Some(format!(
                    "connection lost ({}), trying again",
                    error.message()
                ))
            }
            WatchEvent::Synced { .. } | WatchEvent::Changed { .. } if self.lost => {
                self.lost = false;
                Some("connected again".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{client, proto::v1::Position};

    fn lost() -> WatchEvent<()> {
        let code = tonic::Code::Unavailable;
        WatchEvent::Reconnecting {
            error: Some(client::Error::new("WatchState", code, "TRANSPORT", "gone")),
            wait: Duration::ZERO,
        }
    }

    fn synced() -> WatchEvent<()> {
        WatchEvent::Synced {
            position: Position::default(),
        }
    }

    #[test]
    fn a_lost_connection_is_said_once_and_so_is_its_return() {
        let mut watching = Watching::default();
        let mut note = |event| watching.look(&event).unwrap().note;
        assert_eq!(note(synced()), None);
        let said = note(lost()).unwrap();
        assert!(said.contains("gone"), "{said}");
        assert_eq!(note(lost()), None);
        assert_eq!(note(synced()).as_deref(), Some("connected again"));
        assert_eq!(note(synced()), None);
    }

    #[test]
    fn only_a_server_that_never_answered_ends_the_watch() {
        let mut watching = Watching::default();
        assert!(watching.look(&lost()).is_err());
        assert!(watching.look(&synced()).unwrap().is_first);
        let reset = WatchEvent::<()>::Reset { reset: None };
        watching.look(&reset).unwrap();
        watching.look(&lost()).unwrap();
        assert!(watching.look(&synced()).unwrap().is_first);
    }
}
