//! The thread that commits: it takes what all namespaces have queued, writes it in one batch with
//! one sync, and answers all. It does not wait for more to come: what arrives during a sync makes
//! the next batch.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use fjall::{Database, PersistMode};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{
    namespace::{Group, Namespace},
    syncing::Syncing,
};
use crate::{
    journal::{AppendError, Appended, Durability},
    runtime::{JobKind, Registry, TaskError},
};

/// Groups that may wait. Each namespace has at most one in flight, so only callers that drop their
/// futures, or a thousand namespaces at once, get there; what is beyond it is refused.
const MAX_QUEUED: usize = 1_024;

/// A group and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) namespace: Arc<Namespace>,
    pub(super) group: Group,
    pub(super) answer: oneshot::Sender<Result<Appended, AppendError>>,
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Why nothing more is taken.
    stopped: Option<String>,
    /// That is because it could not be written.
    failed: bool,
    /// What was answered may be lost, and nobody has been told yet.
    lost: bool,
}

impl Queue {
    pub(super) fn push(&self, job: Job) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        if let Some(reason) = state.stopped.clone() {
            // The first to come after a loss must not go on as if only this group were refused.
            return Err(match std::mem::take(&mut state.lost) {
                true => AppendError::Unknown(reason),
                false => AppendError::Refused(reason),
            });
        }
        if state.jobs.len() >= MAX_QUEUED {
            return Err(AppendError::Refused(format!(
                "{MAX_QUEUED} groups wait to be written: append fewer at a time"
            )));
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes nothing more; what is queued is still written. The first reason stays.
    pub(super) fn stop(&self, reason: String) {
        self.state.lock().stopped.get_or_insert(reason);
        self.changed.notify_one();
    }

    /// Why nothing more is taken.
    pub(super) fn refusal(&self) -> AppendError {
        let reason = self.state.lock().stopped.clone();
        AppendError::Refused(reason.unwrap_or_else(|| "the store was closed".into()))
    }

    /// Takes nothing more and refuses what is queued.
    pub(super) fn fail(&self, reason: String) {
        self.stop(reason);
        let refused = {
            let mut state = self.state.lock();
            state.failed = true;
            std::mem::take(&mut state.jobs)
        };
        for job in refused {
            let _ = job.answer.send(Err(self.refusal()));
        }
    }

    /// The same where what was answered may be lost: whoever comes next is told so.
    pub(super) fn lose(&self, reason: String) {
        self.state.lock().lost = true;
        self.fail(reason);
    }

    /// Whether it was stopped because the disk failed.
    pub(super) fn has_failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Waits for jobs, until then, and takes them all; `None` once stopped and empty.
    fn take(&self, until: Option<Instant>) -> Option<VecDeque<Job>> {
        let mut state = self.state.lock();
        loop {
            if !state.jobs.is_empty() {
                return Some(std::mem::take(&mut state.jobs));
            }
            if state.stopped.is_some() {
                return None;
            }
            match until {
                Some(until) if self.changed.wait_until(&mut state, until).timed_out() => {
                    return Some(VecDeque::new());
                }
                Some(_) => {}
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Puts jobs back before those that came meanwhile.
    fn put_back(&self, jobs: Vec<Job>) {
        let mut state = self.state.lock();
        for job in jobs.into_iter().rev() {
            state.jobs.push_front(job);
        }
    }
}

/// The thread, until it has ended: with nothing, or a panic.
pub(super) type Thread = JoinHandle<Result<(), TaskError>>;

/// Starts the thread as a job; it ends when the queue is stopped and empty.
pub(super) fn start(
    queue: Arc<Queue>,
    database: Database,
    durability: Durability,
    jobs: &Registry,
) -> io::Result<Thread> {
    jobs.spawn_thread(JobKind::Journal, "duite-journal", move || {
        let _stop = StopOnPanic(&queue);
        let mut syncing = Syncing::new(durability);
        let mode = durability.persist_mode();
        let mut number = 0;
        while let Some(jobs) = queue.take(syncing.due()) {
            if !jobs.is_empty() {
                number += 1;
                commit(&queue, &database, mode, number, jobs);
                syncing.written();
            }
            syncing.sync(&queue, &database);
        }
        Ok::<_, Infallible>(())
    })
}

/// Where this thread panics nothing is ever answered: whoever comes later must hear it.
struct StopOnPanic<'a>(&'a Queue);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0
                .fail("the thread that writes the journal panicked".into());
        }
    }
}

fn commit(queue: &Queue, database: &Database, mode: PersistMode, number: u64, jobs: VecDeque<Job>) {
    let mut batch = database.batch().durability(Some(mode));
    let mut answers = Vec::with_capacity(jobs.len());
    let mut later = Vec::new();
    for job in jobs {
        // In a batch all keys have one sequence number, so none may occur twice: of a namespace
        // that queued several groups the others wait.
        if !job.namespace.enter(number) {
            later.push(job);
            continue;
        }
        match job.namespace.plan(job.group, &mut batch) {
            Ok(appended) => answers.push((job.answer, appended)),
            Err(error) => {
                let _ = job
                    .answer
                    .send(Err(AppendError::Refused(error.to_string())));
            }
        }
    }
    queue.put_back(later);

    // Where every draft lost its compare-and-set the batch is empty and this does nothing.
    match batch.commit() {
        Ok(()) => {
            for (answer, appended) in answers {
                let _ = answer.send(Ok(appended));
            }
        }
        Err(error) => {
            // A failed write or sync cannot be tried again: the system may have dropped the pages
            // and report success next time. Only reading the disk again tells what is there.
            tracing::error!(%error, "the journal cannot be written and takes nothing more");
            queue.fail(format!(
                "the journal could not be written ({error}) and takes nothing more: free space or repair the disk, then restart"
            ));
            for (answer, _) in answers {
                let _ = answer.send(Err(AppendError::Unknown(error.to_string())));
            }
        }
    }
}
