//! What was committed of failures, counted a second time: by what the task records show, whatever
//! became of the groups that the engine counted in.

use std::collections::{BTreeMap, BTreeSet};

use super::{count::Counts, disk::Log};
use crate::domain::{
    Entry,
    task::{Failure, FailureCategory},
};

/// Each failed attempt is counted in one error group, once. The error: the groups have counted
/// something else.
///
/// Only of the first epoch is all known: a later one begins with a copy that was compacted.
pub(super) fn are_counted_once(log: &Log, counts: &mut Counts) -> Result<(), String> {
    let Some(first) = log.keys().next().map(|(epoch, _)| *epoch) else {
        return Ok(());
    };
    let mut shown = BTreeSet::new();
    let mut counted = BTreeMap::new();
    for ((epoch, _), entry) in log {
        if *epoch != first {
            continue;
        }
        match entry {
            Entry::Task(task) => {
                let attempts = task.attempts.iter();
                let failed = attempts.filter(|attempt| counts_as(attempt.failure.as_deref()));
                shown.extend(failed.map(|attempt| (task.uid, Some(attempt.fence))));
                if counts_as(task.failure.as_deref()) {
                    shown.insert((task.uid, None));
                }
            }
            Entry::ErrorGroup(group) => {
                let before = counted.insert(group.fingerprint(), group.count);
                if before.is_some_and(|before| before >= group.count) {
                    return Err(format!("error group {} counts back", group.fingerprint()));
                }
            }
            _ => {}
        }
    }
    let sum: u64 = counted.values().sum();
    counts.add("task: failure counted in an error group", sum);
    if sum == shown.len() as u64 {
        return Ok(());
    }
    Err(format!(
        "the records of tasks show {} failures, the error groups have counted {sum}",
        shown.len()
    ))
}

fn counts_as(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| failure.category() != FailureCategory::Cancelled)
}
