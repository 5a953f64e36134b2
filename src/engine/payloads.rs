//! Data of inputs and outputs, which the mirror only says the place of.
//!
//! It is read back from the journal when a worker or a reader wants it. Inputs that were submitted
//! a moment ago are at hand, because a short queue hands them out soon; behind a long one it is the
//! oldest that are wanted, which no memory would hold.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    command::{TaskOp, TaskOpKind},
    mirror::TaskRow,
};
use crate::{
    domain::{
        Entry, Error, Reason, Revision, TaskId,
        task::{Event, Failure, FailureCategory, Outcome, Task},
    },
    journal::{Committed, Journal, OpenError},
};

/// Bytes of new inputs a namespace keeps at hand; the oldest go first.
const RECENT_BYTES: usize = 8 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Payloads {
    journal: Arc<dyn Journal>,
    recent: Mutex<Recent>,
}

/// The newest inputs, by revision.
#[derive(Debug, Default)]
struct Recent {
    inputs: VecDeque<(Revision, Bytes)>,
    bytes: usize,
}

impl Recent {
    fn keep(&mut self, revision: Revision, input: Bytes) {
        self.bytes += input.len();
        self.inputs.push_back((revision, input));
        while self.bytes > RECENT_BYTES
            && let Some((_, oldest)) = self.inputs.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    fn get(&self, revision: Revision) -> Option<Bytes> {
        let found = self.inputs.binary_search_by_key(&revision, |(at, _)| *at);
        found.ok().map(|place| self.inputs[place].1.clone())
    }
}

/// The data that a task's record does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aside {
    /// The input's, where it is held elsewhere.
    pub input: Option<Bytes>,
    /// The output's.
    pub output: Option<Bytes>,
}

impl Payloads {
    pub(super) fn new(journal: Arc<dyn Journal>) -> Self {
        Self {
            journal,
            recent: Mutex::default(),
        }
    }

    /// Keeps the inputs of tasks that were just committed at hand, for whoever leases them.
    pub(super) fn keep<'a>(&self, committed: impl Iterator<Item = &'a Committed>) {
        let mut recent = self.recent.lock();
        for Committed {
            revision, entry, ..
        } in committed
        {
            if let Entry::NewTask(new) = entry
                && let Some(input) = &new.input
            {
                recent.keep(*revision, input.clone());
            }
        }
    }

    /// The input of each task, where it is held elsewhere; in order, each found or not by itself.
    pub(super) async fn inputs(&self, rows: &[Arc<TaskRow>]) -> Vec<Result<Option<Bytes>, Unread>> {
        let places = rows.iter().map(|row| Revision(row.task.input_at));
        let places: Vec<_> = places.collect();
        let mut inputs: Vec<_> = {
            let recent = self.recent.lock();
            places.iter().map(|at| Ok(recent.get(*at))).collect()
        };
        let missing: Vec<_> = (0..places.len())
            .filter(|place| inputs[*place] == Ok(None) && places[*place] != Revision::ZERO)
            .collect();
        if missing.is_empty() {
            return inputs;
        }
        let revisions = missing.iter().map(|place| places[*place]).collect();
        for (place, holder) in missing.into_iter().zip(self.holders(revisions).await) {
            let input = holder.and_then(|holder| holder.input.ok_or(Unread::Gone));
            inputs[place] = input.map(|input| Some(input.data));
        }
        inputs
    }

    /// What one task's record does not hold, but for what is damaged; nothing where the task is
    /// gone since.
    pub(super) async fn aside(&self, task: &Task) -> Result<Option<Aside>, Error> {
        let mut aside = Aside::default();
        let wanted: Vec<_> = [task.input_at, task.output_at]
            .into_iter()
            .filter(|at| *at != 0)
            .map(Revision)
            .collect();
        if wanted.is_empty() {
            return Ok(Some(aside));
        }
        for (at, holder) in wanted.clone().into_iter().zip(self.holders(wanted).await) {
            let holder = match holder {
                Ok(holder) => holder,
                Err(Unread::Gone) => return Ok(None),
                Err(Unread::Damaged(problem)) => {
                    tracing::error!(
                        task.id,
                        revision = at.0,
                        error = problem,
                        "data of a task is damaged, it is shown without"
                    );
                    continue;
                }
                Err(failed @ Unread::Failed(_)) => return Err(failed.error(&task.id)),
            };
            if at.0 == task.input_at {
                aside.input = holder.input.map(|input| input.data);
            }
            if at.0 == task.output_at {
                aside.output = holder.output.map(|output| output.data);
            }
        }
        Ok(Some(aside))
    }

    /// The records that hold data, as they were written.
    async fn holders(&self, revisions: Vec<Revision>) -> Vec<Result<Box<Task>, Unread>> {
        if let Ok(read) = self.journal.read_many(revisions.clone()).await {
            return read.into_iter().map(holder).collect();
        }
        // One that cannot be read hides the others: one by one.
        let mut holders = Vec::with_capacity(revisions.len());
        for revision in revisions {
            let read = self.journal.read(revision).await;
            holders.push(read.map_err(Unread::from).and_then(holder));
        }
        holders
    }
}

/// Why data cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Its entry is not there: the task was removed meanwhile, or it is lost.
    Gone,
    /// Its entry is there and cannot be understood.
    Damaged(String),
    /// The journal cannot be read now.
    Failed(String),
}

impl From<OpenError> for Unread {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { .. } => Self::Damaged(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl Unread {
    /// For whoever asked for the data of a task that stands.
    pub(super) fn error(self, task: &str) -> Error {
        let (reason, problem) = match self {
            Self::Gone => (Reason::PayloadDamaged, "its entry is missing".to_owned()),
            Self::Damaged(problem) => (Reason::PayloadDamaged, problem),
            Self::Failed(problem) => (Reason::JournalUnavailable, problem),
        };
        let message = format!("data of task {task} cannot be read back: {problem}");
        Error::new(reason, message).with("task", task)
    }

    /// The end of an attempt whose input cannot be had; none where the row does not run.
    pub(super) fn end_of(&self, row: &TaskRow) -> Option<TaskOp> {
        let attempt = row.task.running()?;
        let (kind, problem) = match self {
            Self::Gone => ("input_damaged", "its entry is missing in the journal"),
            Self::Damaged(problem) => ("input_damaged", problem.as_str()),
            Self::Failed(problem) => ("input_unreadable", problem.as_str()),
        };
        let message = format!(
            "the server cannot read the input of task {} back: {problem}",
            row.task.id
        );
        let failure = Failure {
            category: FailureCategory::Infrastructure as i32,
            r#type: kind.into(),
            message,
            retryable: matches!(self, Self::Failed(_)),
            ..Failure::default()
        };
        let event = Event::Finish {
            fence: attempt.fence,
            secret: attempt.secret,
            outcome: Outcome::Failed(Box::new(failure)),
            marks: Vec::new(),
            marks_merged: true,
        };
        tracing::error!(
            task.id = row.task.id,
            attempt = attempt.number,
            revision = row.task.input_at,
            error = problem,
            "an input cannot be read back, the attempt is ended as failed"
        );
        Some(TaskOp {
            id: TaskId::trusted(&row.task.id),
            kind: TaskOpKind::Event(event),
        })
    }
}

fn holder(read: Option<Committed>) -> Result<Box<Task>, Unread> {
    match read.map(|read| read.entry) {
        Some(Entry::Task(task)) => Ok(task),
        _ => Err(Unread::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_inputs_are_at_hand_within_a_bound() {
        let mut recent = Recent::default();
        let input = Bytes::from(vec![1; RECENT_BYTES / 4]);
        for revision in (10..20).step_by(2) {
            recent.keep(Revision(revision), input.clone());
        }
        assert_eq!(recent.get(Revision(10)), None);
        assert_eq!(recent.get(Revision(12)), Some(input.clone()));
        assert_eq!(recent.get(Revision(13)), None);
        assert_eq!(recent.get(Revision(18)), Some(input));
        assert_eq!((recent.inputs.len(), recent.bytes), (4, RECENT_BYTES));
    }
}
