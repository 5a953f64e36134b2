//! Counting failures.
//!
//! A failure is counted in the group of drafts that makes it: the task's record and the record of its
//! error group are committed together or not at all, so no crash counts twice or forgets. However many
//! failures of one error group a group of drafts brings, they are one entry.

use std::collections::BTreeMap;

use super::{
    super::{command::Reply, errors::ErrorRow, mirror::Mirror},
    Core, Work,
    group::{Group, Settle},
};
use crate::{
    domain::{
        Entry, Revision,
        failure::{self, Fingerprint, Kind, Occurrence, Report, new_failures},
        task::Task,
    },
    journal::Draft,
};

/// The error groups that a group of drafts changes.
#[derive(Debug, Default)]
pub(super) struct ErrorPlan {
    staged: BTreeMap<Fingerprint, Staged>,
    /// How many of them are new.
    new: usize,
    /// Who waits for all of it to be durable.
    replies: Vec<Reply<Revision>>,
}

#[derive(Debug)]
struct Staged {
    group: failure::Group,
    /// Revision of the record that it replaces.
    last: Revision,
}

impl ErrorPlan {
    /// Counts in the error group of a kind, or in the one for all others where there is no room for
    /// one more. Says how many bytes that adds to the group of drafts; none where it was counted
    /// before.
    fn count(&mut self, mirror: &Mirror, kind: &Kind, occurrence: Occurrence<'_>) -> Option<usize> {
        let mut fingerprint = kind.fingerprint();
        let staged = self.staged.contains_key(&fingerprint);
        let mut found = mirror.errors.get(fingerprint);
        let mut kind = kind.clone();
        if !staged && found.is_none() && !mirror.errors.has_room_for(self.new + 1) {
            kind = Kind::other();
            fingerprint = kind.fingerprint();
            found = mirror.errors.get(fingerprint);
        }
        if let Some(staged) = self.staged.get_mut(&fingerprint) {
            return staged.group.count(occurrence).then_some(0);
        }
        let is_new = found.is_none() && kind != Kind::other();
        let (mut group, last) = match found {
            Some(ErrorRow { group, revision }) => ((*group).clone(), revision),
            None => (failure::Group::new(kind), Revision::ZERO),
        };
        if !group.count(occurrence) {
            return None;
        }
        let bytes = prost::Message::encoded_len(&group);
        self.new += usize::from(is_new);
        self.staged.insert(fingerprint, Staged { group, last });
        Some(bytes)
    }

    /// The drafts, the last of which answers who waits.
    pub(super) fn seal(&mut self) -> Vec<(Draft, Settle)> {
        let replies = std::mem::take(&mut self.replies);
        let staged = std::mem::take(&mut self.staged).into_values();
        let mut drafts: Vec<_> = staged
            .map(|Staged { group, last }| {
                let draft = Draft {
                    entry: Entry::ErrorGroup(Box::new(group)),
                    expect: Some(last),
                    supersedes: Some(last)
                        .filter(|last| *last != Revision::ZERO)
                        .into_iter()
                        .collect(),
                };
                (draft, Settle::Nothing)
            })
            .collect();
        if let Some((_, settle)) = drafts.last_mut() {
            *settle = Settle::Reported(replies);
        }
        drafts
    }
}

impl Core {
    /// Counts what a task's next record adds.
    pub(super) fn count_failures(&self, before: &Task, after: &Task, group: &mut Group) {
        let mut failures = new_failures(before, after).peekable();
        if failures.peek().is_none() {
            return;
        }
        let mirror = self.shared.mirror.read();
        for failure in failures {
            let occurrence = Occurrence {
                failure,
                task: Some(&after.id),
                report: None,
                time_us: self.now.wall_us,
            };
            let kind = Kind::of(&after.r#type, failure);
            let bytes = group.errors.count(&mirror, &kind, occurrence);
            group.add_bytes(bytes.unwrap_or_default());
        }
    }

    /// Counts what was reported and is not known yet.
    pub(super) fn plan_report(
        &mut self,
        reports: Vec<Report>,
        reply: Reply<Revision>,
        group: &mut Group,
    ) -> Option<Work> {
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        for report in &reports {
            let occurrence = Occurrence {
                failure: &report.failure,
                task: None,
                report: Some(report.id),
                time_us: self.now.wall_us,
            };
            let bytes = group.errors.count(&mirror, &report.kind, occurrence);
            group.add_bytes(bytes.unwrap_or_default());
        }
        if group.errors.staged.is_empty() {
            // All of it is durable already.
            let _ = reply.send(Ok(mirror.head));
        } else {
            // What was known may be so from this very group.
            group.errors.replies.push(reply);
        }
        None
    }
}
