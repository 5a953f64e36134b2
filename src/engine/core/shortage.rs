//! What is done while the disk is nearly full.
//!
//! What adds something is refused or waits: new tasks, updates, settings, reported failures, pushed
//! batches and their streams, work for workers. What ends or removes something goes on: results, cancels, renewals,
//! deletions, retention, contributions of finishing tasks. So the server gets smaller by itself, and
//! a result that took an hour to compute is not thrown away. Reads and watches do not come here.

use std::sync::Arc;

use super::{Core, Work, group::Group};
use crate::domain::{Error, Reason};

impl Core {
    /// What the journal says of its room.
    pub(crate) fn set_shortage(&mut self, shortage: Option<Arc<str>>) {
        if shortage.is_none() && self.shortage.is_some() {
            // Workers waited meanwhile.
            self.match_due = true;
        }
        self.shortage = shortage;
    }

    /// Why what adds something is refused now.
    pub(super) fn storage_full(&self) -> Option<Error> {
        let shortage = self.shortage.as_ref()?;
        Some(Error::new(Reason::StorageFull, shortage.to_string()))
    }

    /// Answers work that adds something while there is no room for it; gives back all other.
    pub(super) fn refuse_addition(&mut self, work: Work) -> Option<Work> {
        let Some(error) = self.storage_full() else {
            return Some(work);
        };
        match work {
            Work::Update(_, reply) => drop(reply.send(Err(error))),
            Work::Settings { reply, .. } => drop(reply.send(Err(error))),
            Work::Report(_, reply) => drop(reply.send(Err(error))),
            Work::Open(_, reply) => drop(reply.send(Err(error))),
            // A task is refused where it does not stand already.
            Work::Task { .. }
            | Work::Remove(_)
            | Work::Renew(..)
            | Work::Delete { .. }
            // A queue is paused now more than ever.
            | Work::SetQueue { .. }
            | Work::Expire(_) => return Some(work),
        }
        None
    }

    /// Ends push streams whose batches cannot be taken; their writers come back with them.
    pub(super) fn refuse_pushes(&mut self, error: &Error) {
        for session in self.shared.intake.take_dirty() {
            if session.waiting().is_some() {
                session.close(error.clone());
            }
        }
    }

    /// Pushed batches.
    pub(super) fn plan_pushes(&mut self, group: &mut Group) {
        match self.storage_full() {
            Some(error) => self.refuse_pushes(&error),
            None => self.plan_intake(group),
        }
    }
}
