//! The monitor's own work: what happens to tasks by themselves, and what leaves.
//!
//! Each waits in a line of its own, apart from what callers ask, and is tried again for as long as
//! the journal refuses it. The lines are bounded by their timers, which stay where they are while a
//! line is full. So whatever the journal refuses, and however long, callers are heard and answered.
//!
//! A journal without room takes what only removes longer than all else. Between two tries of all, the
//! monitor therefore plans groups that only remove: it gets smaller by itself.

use std::collections::VecDeque;

use super::{super::timers::Kind, Core, Work, group::Group, group::Lane};
use crate::domain::{TaskId, task::Event};

/// Events of the monitor's own that wait, and as many removals; but each running task may add one.
const MAX_WAITING: usize = 4_096;
/// Of each of them in one group.
const MAX_PER_GROUP: usize = 1_024;

impl Core {
    /// Whether timers that lead to this kind of work may fire.
    pub(super) fn has_room_for(&self, kind: Kind) -> bool {
        match kind {
            Kind::Upkeep => true,
            Kind::Task => self.events.len() < MAX_WAITING,
            Kind::Removal => self.removals.len() < MAX_WAITING,
        }
    }

    /// An event of the monitor's own, for the next round.
    pub(super) fn push_own(&mut self, id: TaskId, event: Event) {
        self.events.push_back(Work::event(id, event));
    }

    /// Plans removals and events that have come due.
    pub(super) fn plan_own(&mut self, group: &mut Group) {
        group.enter(Lane::Own);
        self.plan_removals(group);
        let events = std::mem::take(&mut self.events);
        let left = self.plan_line(events, MAX_PER_GROUP, group);
        put_back(&mut self.events, left);
    }

    fn plan_removals(&mut self, group: &mut Group) {
        let removals = std::mem::take(&mut self.removals);
        let left = self.plan_line(removals, MAX_PER_GROUP, group);
        put_back(&mut self.removals, left);
    }

    /// Plans a group that only removes, with the deletions that callers ask for.
    pub(super) fn plan_removals_alone(&mut self, group: &mut Group) {
        group.removes = true;
        self.keep_few();
        self.fire(Kind::Removal, group);
        group.enter(Lane::Own);
        self.plan_removals(group);
        let backlog = std::mem::take(&mut self.backlog);
        let (deletions, rest): (VecDeque<_>, _) = backlog
            .into_iter()
            .partition(|work| matches!(work, Work::Delete { .. }));
        self.backlog = rest;
        group.enter(Lane::Calls);
        let left = self.plan_line(deletions, MAX_PER_GROUP, group);
        put_back(&mut self.backlog, left);
    }

    /// Plans what waits in a line, and gives back what is left of it. What must wait does not count,
    /// so that it does not keep what is behind it waiting; it goes first in the next round, in its
    /// order.
    pub(super) fn plan_line(
        &mut self,
        mut line: VecDeque<Work>,
        most: usize,
        group: &mut Group,
    ) -> VecDeque<Work> {
        let mut deferred = Vec::new();
        let mut planned = 0;
        while planned < most && !group.is_heavy() {
            let Some(work) = line.pop_front() else {
                break;
            };
            match self.plan_work(work, group) {
                Some(work) => deferred.push(work),
                None => planned += 1,
            }
        }
        for work in deferred.into_iter().rev() {
            line.push_front(work);
        }
        line
    }
}

/// What is left of a line goes before what came to it meanwhile.
pub(super) fn put_back(line: &mut VecDeque<Work>, mut left: VecDeque<Work>) {
    left.append(line);
    *line = left;
}
