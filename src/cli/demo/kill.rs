//! Kills one worker process in the middle.

use std::collections::BTreeMap;

use super::{Error, board, stage::Stage, worker::QUEUE};
use crate::{
    client::Client,
    proto::v1::{Task, TaskFilter, task::Status},
};

/// When the worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum KillWhen {
    /// By the demo's hand, at some moment when it has work in hand.
    Busy,
    /// By its own, within moments after a digest has contributed and returned.
    Contributed,
}

/// The worker that was killed.
#[derive(Debug, Clone)]
pub(super) struct Killed {
    pub(super) worker: String,
    pub(super) pid: u32,
    /// The slices that it had in hand by the server's account.
    pub(super) held: Vec<String>,
}

/// Waits for its moment.
#[derive(Debug)]
pub(super) struct Killer {
    when: KillWhen,
    /// Slices that have to be finished first.
    after: usize,
    pub(super) killed: Option<Killed>,
}

impl Killer {
    /// A moment between a quarter and a half of the slices.
    pub(super) fn new(when: KillWhen, slices: usize) -> Self {
        Self {
            when,
            after: fastrand::usize(slices / 4..=slices / 2),
            killed: None,
        }
    }

    /// After how many digests a worker shall kill itself.
    pub(super) fn die_after(when: KillWhen, worker: usize, slices: usize) -> Option<u32> {
        let after = u32::try_from(slices / 6).unwrap_or(u32::MAX).max(1);
        (when == KillWhen::Contributed && worker == 0).then_some(after)
    }

    /// The worker whose end is no surprise.
    pub(super) fn expected<'a>(&'a self, stage: &'a Stage) -> Option<&'a str> {
        match (&self.killed, self.when) {
            (Some(killed), _) => Some(&killed.worker),
            (None, KillWhen::Contributed) => stage.workers.first().map(|one| one.name.as_str()),
            (None, KillWhen::Busy) => None,
        }
    }

    /// Looks whether the moment has come, and if it has, strikes. True if it just did.
    pub(super) async fn try_kill(
        &mut self,
        stage: &mut Stage,
        client: &Client,
        tasks: &BTreeMap<String, Task>,
    ) -> Result<bool, Error> {
        if self.killed.is_some() {
            return Ok(false);
        }
        self.killed = match self.when {
            KillWhen::Contributed => found_dead(stage, tasks)?,
            KillWhen::Busy => {
                let finished = tasks
                    .values()
                    .filter(|task| task.status() == Status::Succeeded);
                if finished.count() < self.after {
                    return Ok(false);
                }
                strike(stage, client, tasks).await?
            }
        };
        Ok(self.killed.is_some())
    }

    /// The last chance, when all is done: a tree so small that no worker was met at work.
    pub(super) async fn kill_idle(&mut self, stage: &mut Stage) -> Result<bool, Error> {
        if self.killed.is_some() {
            return Ok(false);
        }
        let Some(worker) = stage.workers.first_mut() else {
            return Ok(false);
        };
        worker.kill().await?;
        self.killed = Some(Killed {
            worker: worker.name.clone(),
            pid: worker.pid,
            held: Vec::new(),
        });
        Ok(true)
    }
}

fn found_dead(stage: &mut Stage, tasks: &BTreeMap<String, Task>) -> Result<Option<Killed>, Error> {
    let Some(worker) = stage.workers.first_mut() else {
        return Ok(None);
    };
    if worker.ended()?.is_none() {
        return Ok(None);
    }
    Ok(Some(Killed {
        held: board::held_by(tasks.values(), &worker.name),
        worker: worker.name.clone(),
        pid: worker.pid,
    }))
}

/// Freezes the busier worker, asks the server what it holds, and kills it if that is anything: a
/// watch is always a moment late, and small slices take no longer than that.
async fn strike(
    stage: &mut Stage,
    client: &Client,
    tasks: &BTreeMap<String, Task>,
) -> Result<Option<Killed>, Error> {
    let busy = |name: &str| board::held_by(tasks.values(), name).len();
    let busiest = stage.workers.iter().map(|worker| worker.name.clone());
    let Some(name) = busiest.max_by_key(|name| busy(name)) else {
        return Ok(None);
    };
    if busy(&name) == 0 {
        return Ok(None);
    }
    let Some(worker) = stage.worker(&name) else {
        return Ok(None);
    };
    worker.freeze(true)?;
    let filter = TaskFilter {
        statuses: vec![Status::Running.into()],
        queues: vec![QUEUE.to_owned()],
        ..TaskFilter::default()
    };
    let running = client.list_tasks(filter, 1000, "").await;
    let held = running.map(|page| board::held_by(&page.tasks, &name));
    if matches!(&held, Ok(held) if !held.is_empty()) {
        worker.kill().await?;
    } else {
        worker.freeze(false)?;
    }
    let held = held?;
    Ok((!held.is_empty()).then_some(Killed {
        worker: name,
        pid: worker.pid,
        held,
    }))
}
