//! Tasks that wait to be leased: one line per queue and task type, by priority, then by age.

use std::collections::{BTreeMap, HashMap};

use crate::domain::{Revision, TaskId, task::Task};

/// Higher priority first, then the one that has been ready longest.
type Rank = (u8, Revision);

/// All lines. Empty lines are dropped, so there are at most as many as waiting tasks.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    queues: HashMap<String, HashMap<String, BTreeMap<Rank, TaskId>>>,
    len: usize,
}

fn rank(task: &Task, since: Revision) -> Rank {
    // Nine minus the priority, so that the first in order goes first.
    (
        9_u8.saturating_sub(u8::try_from(task.priority).unwrap_or(9)),
        since,
    )
}

impl Ready {
    /// A task became ready in the record of revision `since`.
    pub(crate) fn insert(&mut self, task: &Task, since: Revision) {
        let types = self.queues.entry(task.queue.clone()).or_default();
        let line = types.entry(task.r#type.clone()).or_default();
        if line
            .insert(rank(task, since), TaskId::trusted(&task.id))
            .is_none()
        {
            self.len += 1;
        }
    }

    /// A task is no longer ready.
    pub(crate) fn remove(&mut self, task: &Task, since: Revision) {
        let Some(types) = self.queues.get_mut(&task.queue) else {
            return;
        };
        let Some(line) = types.get_mut(&task.r#type) else {
            return;
        };
        if line.remove(&rank(task, since)).is_some() {
            self.len -= 1;
        }
        if line.is_empty() {
            types.remove(&task.r#type);
        }
        if types.is_empty() {
            self.queues.remove(&task.queue);
        }
    }

    /// The first tasks a worker of these queues and types should run, best first. They stay in
    /// line; whoever takes one removes it. No types means every type.
    pub(crate) fn first(&self, queues: &[String], types: &[String], limit: usize) -> Vec<TaskId> {
        let mut lines: Vec<_> = queues
            .iter()
            .filter_map(|queue| self.queues.get(queue))
            .flat_map(|lines| lines.iter())
            .filter(|(found, _)| types.is_empty() || types.contains(found))
            .map(|(_, line)| line.iter().peekable())
            .collect();
        let mut taken = Vec::new();
        while taken.len() < limit {
            let best = lines
                .iter_mut()
                .filter_map(|line| line.peek().map(|(rank, _)| **rank).map(|rank| (rank, line)))
                .min_by_key(|(rank, _)| *rank);
            match best.and_then(|(_, line)| line.next()) {
                Some((_, task)) => taken.push(task.clone()),
                None => break,
            }
        }
        taken
    }

    /// Tasks in line.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, queue: &str, r#type: &str, priority: u32) -> Task {
        Task {
            id: id.into(),
            queue: queue.into(),
            r#type: r#type.into(),
            priority,
            ..Task::default()
        }
    }

    fn names(tasks: Vec<TaskId>) -> Vec<String> {
        tasks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn priority_goes_before_age_and_age_before_type() {
        let mut ready = Ready::default();
        ready.insert(&task("old", "q", "a", 0), Revision(1));
        ready.insert(&task("new", "q", "b", 0), Revision(2));
        ready.insert(&task("urgent", "q", "b", 9), Revision(3));
        ready.insert(&task("elsewhere", "p", "a", 9), Revision(4));
        assert_eq!(
            names(ready.first(&["q".into()], &[], 10)),
            ["urgent", "old", "new"]
        );
        assert_eq!(
            names(ready.first(&["q".into()], &["a".into()], 10)),
            ["old"]
        );
        assert_eq!(
            names(ready.first(&["q".into(), "p".into()], &[], 2)),
            ["urgent", "elsewhere"]
        );
    }

    #[test]
    fn a_line_that_empties_leaves_nothing_behind() {
        let mut ready = Ready::default();
        let one = task("one", "q", "a", 0);
        ready.insert(&one, Revision(1));
        ready.insert(&one, Revision(1));
        assert_eq!(ready.len(), 1);
        ready.remove(&one, Revision(1));
        ready.remove(&one, Revision(1));
        assert_eq!(ready.len(), 0);
        assert!(ready.queues.is_empty());
    }
}
