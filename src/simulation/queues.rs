//! What was committed, held against the limits of queues: in the journal's order, and without the
//! engine's code.

use std::collections::BTreeMap;

use super::{count::Counts, disk::Log};
use crate::domain::{
    Entry,
    entry::QueueSettings,
    task::{FailureCategory, Status, Task},
};

/// A task as it stood last.
struct Stood<'a> {
    task: &'a Task,
    runs: bool,
}

/// One epoch. It may begin with a copy of another that was compacted: what happened before is not in
/// it, and only tasks that are seen to wait first are judged as they begin to run.
#[derive(Default)]
struct Epoch<'a> {
    settings: BTreeMap<&'a str, QueueSettings>,
    tasks: BTreeMap<&'a str, Stood<'a>>,
}

/// Counts what was met. The error: more ran than may, or a paused queue handed out a task.
pub(super) fn limits_are_kept(log: &Log, counts: &mut Counts) -> Result<(), String> {
    let mut epochs: BTreeMap<_, Epoch<'_>> = BTreeMap::new();
    for ((epoch, revision), entry) in log {
        let epoch = epochs.entry(*epoch).or_default();
        let judged = match entry {
            Entry::Queue(queue) => {
                let paused = queue.settings.paused && epoch.running(&queue.name, None) > 0;
                counts.add("queue: paused with tasks that run", u64::from(paused));
                epoch.settings.insert(&queue.name, queue.settings);
                Ok(())
            }
            Entry::Task(task) => epoch.task(task, counts),
            Entry::NewTask(new) => epoch.task(&new.task, counts),
            Entry::TaskRemoved(removed) => {
                epoch.tasks.remove(removed.id.as_str());
                Ok(())
            }
            _ => Ok(()),
        };
        judged.map_err(|problem| format!("at revision {revision}: {problem}"))?;
    }
    Ok(())
}

impl<'a> Epoch<'a> {
    fn running(&self, queue: &str, key: Option<&str>) -> u32 {
        let stood = self.tasks.values().filter(|stood| stood.runs);
        let of_queue = stood.filter(|stood| stood.task.queue == queue);
        let counted =
            of_queue.filter(|stood| key.is_none_or(|key| stood.task.concurrency_key == key));
        u32::try_from(counted.count()).unwrap_or(u32::MAX)
    }

    fn task(&mut self, task: &'a Task, counts: &mut Counts) -> Result<(), String> {
        let runs = task.status() == Status::Running;
        let before = self.tasks.insert(&task.id, Stood { task, runs });
        let Some(before) = before else { return Ok(()) };
        count_change(before.task, task, counts);
        if before.task.status() != Status::Queued || !runs {
            return Ok(());
        }
        let settings = self.settings.get(task.queue.as_str());
        let settings = settings.copied().unwrap_or_default();
        if settings.paused {
            return Err(format!(
                "{} was handed out, and {} is paused",
                task.id, task.queue
            ));
        }
        let key = Some(task.concurrency_key.as_str()).filter(|key| !key.is_empty());
        for (limit, key, kind) in [
            (settings.max_running, None, "queue: filled to its limit"),
            (
                key.map_or(0, |_| settings.max_running_per_key),
                key,
                "queue: filled to the limit of a key",
            ),
        ] {
            let running = self.running(&task.queue, key);
            if limit > 0 && running > limit {
                return Err(format!(
                    "{running} tasks of {} {key:?} run, and {limit} may",
                    task.queue
                ));
            }
            counts.add(kind, u64::from(limit > 0 && running == limit));
        }
        Ok(())
    }
}

fn count_change(before: &Task, after: &Task, counts: &mut Counts) {
    let (was, is) = (before.running(), after.running());
    if let (Some(was), Some(is)) = (was, is)
        && was.fence == is.fence
    {
        let (marked, cleared) = (before.suspect_us == 0, after.suspect_us == 0);
        counts.add("task: suspect", u64::from(marked && !cleared));
        counts.add("task: trusted again", u64::from(!marked && cleared));
    }
    if was.is_some() && is.is_none() {
        let failure = after
            .attempts
            .last()
            .and_then(|last| last.failure.as_deref());
        let timeout = failure.is_some_and(|f| f.category() == FailureCategory::Timeout);
        counts.add("task: timed out", u64::from(timeout));
    }
}
