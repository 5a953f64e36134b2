//! Data of inputs and outputs, which the mirror only says the place of.
//!
//! It is read back from the journal when a worker or a reader wants it. Inputs that were submitted
//! a moment ago are at hand, because a short queue hands them out soon; behind a long one it is the
//! oldest that are wanted, which no memory would hold.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::mirror::TaskRow;
use crate::{
    domain::{Entry, Error, Reason, Revision, task::Task},
    journal::{Committed, Journal},
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

    /// The input of each task, where it is held elsewhere; in order.
    pub(super) async fn inputs(&self, rows: &[Arc<TaskRow>]) -> Result<Vec<Option<Bytes>>, Error> {
        let places = rows.iter().map(|row| Revision(row.task.input_at));
        let places: Vec<_> = places.collect();
        let mut inputs: Vec<_> = {
            let recent = self.recent.lock();
            places.iter().map(|at| recent.get(*at)).collect()
        };
        let missing: Vec<_> = (0..places.len())
            .filter(|place| inputs[*place].is_none() && places[*place] != Revision::ZERO)
            .collect();
        if missing.is_empty() {
            return Ok(inputs);
        }
        let revisions = missing.iter().map(|place| places[*place]).collect();
        for (place, holder) in missing.into_iter().zip(self.holders(revisions).await?) {
            let input = holder.and_then(|holder| holder.input);
            let input = input.ok_or_else(|| lost(&rows[place].task.id, places[place]))?;
            inputs[place] = Some(input.data);
        }
        Ok(inputs)
    }

    /// What one task's record does not hold; nothing where the task is gone since.
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
        for (at, holder) in wanted.clone().into_iter().zip(self.holders(wanted).await?) {
            let Some(holder) = holder else {
                return Ok(None);
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
    async fn holders(&self, revisions: Vec<Revision>) -> Result<Vec<Option<Box<Task>>>, Error> {
        let read = self.journal.read_many(revisions).await.map_err(|error| {
            tracing::error!(error = %error, "payloads cannot be read back");
            Error::new(
                Reason::JournalUnavailable,
                format!("inputs or outputs cannot be read back: {error}"),
            )
        })?;
        let holders = read.into_iter().map(|read| match read?.entry {
            Entry::Task(task) => Some(task),
            _ => None,
        });
        Ok(holders.collect())
    }
}

fn lost(task: &str, at: Revision) -> Error {
    Error::new(
        Reason::Internal,
        format!("the input of task {task} is not in the journal at revision {at}"),
    )
    .with("task", task)
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
