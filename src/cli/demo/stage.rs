//! Everything the demo has started, so that all of it ends on every path.

use super::{Error, process::Process, scratch::Scratch};

/// The processes and their folder. Dropping it kills the ones and removes the other.
#[derive(Debug, Default)]
pub(super) struct Stage {
    // In this order: what writes to the folder goes first.
    pub(super) workers: Vec<Process>,
    pub(super) server: Option<Process>,
    pub(super) scratch: Option<Scratch>,
}

impl Stage {
    /// Ends the processes in order, workers first, and then leaves or removes the folder.
    pub(super) async fn clear(mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for mut process in self.workers.drain(..).chain(self.server.take()) {
            if let Err(error) = process.stop().await {
                result = Err(error);
            }
        }
        result
    }

    /// Kills whatever runs and waits for its end: the folder can be removed only then.
    pub(super) async fn abandon(mut self) {
        for mut process in self.workers.drain(..).chain(self.server.take()) {
            if let Err(error) = process.kill().await {
                tracing::warn!(error.message = %error, "a process of the demo was not killed");
            }
        }
    }

    /// An error if one of the processes has ended by itself; `but` is expected to.
    pub(super) fn all_run(&mut self, but: Option<&str>) -> Result<(), Error> {
        for process in self.workers.iter_mut().chain(&mut self.server) {
            if Some(process.name.as_str()) != but
                && let Some(status) = process.ended()?
            {
                return Err(process.ended_as(status));
            }
        }
        Ok(())
    }

    /// The ends of all logs, for people.
    pub(super) fn tails(&self) -> String {
        let processes = self.server.iter().chain(&self.workers);
        let tails = processes.map(|process| format!("--- {}\n{}", process.name, process.tail()));
        tails.collect::<Vec<_>>().join("\n")
    }

    pub(super) fn worker(&mut self, name: &str) -> Option<&mut Process> {
        self.workers.iter_mut().find(|worker| worker.name == name)
    }
}
