//! Watching tasks.

use std::collections::HashSet;

use super::{
    super::{
        Namespace, TaskFilter,
        mirror::{Mirror, RemovedTask},
        tasks::{Kept, Tombstone},
        token::digest,
        wakers::Topic,
    },
    Source, Watch, WatchOptions,
    walk::walk,
};
use crate::{
    domain::{
        Error, Revision, TaskId,
        limits::MAX_FILTER_NAMES,
        table::{Content, Place},
        task::Status,
    },
    telemetry::metrics::WatchKind,
};

/// Tasks one watch may wait for by number.
const MAX_EXPECTED: usize = 100_000;
/// Tasks looked at in one go when those that had ended are counted: about a millisecond.
const COUNTED_AT_ONCE: usize = 8_192;
/// Tasks that surely fit a part of a walk.
const TASKS_PER_PART: usize = 1_024;

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchTasks {
    /// Which tasks.
    pub filter: TaskFilter,
    /// How.
    pub options: WatchOptions,
    /// End when all named tasks, or the expected number of matching ones, have ended.
    pub until_terminal: bool,
    /// How many tasks match, where none are named.
    pub expected: usize,
}

/// A change of one task.
#[derive(Clone, Debug)]
pub enum TaskItem {
    /// It matches, and this is how it stands since a revision. As it is kept: it is unpacked when
    /// it is sent, so that what waits to be sent takes little.
    Changed(TaskId, Revision, Kept),
    /// It stands with this status, and no longer matches.
    NoLongerMatches(TaskId, Status),
    /// It is gone.
    Deleted(TaskId, RemovedTask),
}

/// A watch of tasks.
pub type TaskWatch = Watch<TaskSource>;

/// See [`Source`].
#[derive(Debug)]
pub struct TaskSource {
    filter: TaskFilter,
    /// The filter without its statuses: what it says of a task never changes.
    lasting: TaskFilter,
    digest: u64,
    mark: Place,
    deleted_after: Revision,
    until_terminal: bool,
    expected: usize,
    /// Matching tasks seen to have ended, where they are counted.
    ended: HashSet<TaskId>,
}

impl Namespace {
    /// Watches tasks.
    pub async fn watch_tasks(&self, request: WatchTasks) -> Result<TaskWatch, Error> {
        let ids = &request.filter.ids;
        if ids.len() > MAX_FILTER_NAMES {
            return Err(Error::field(
                "filter.names",
                format!(
                    "may name at most {MAX_FILTER_NAMES} tasks, got {}",
                    ids.len()
                ),
            ));
        }
        if request.until_terminal && ids.is_empty() && request.expected == 0 {
            return Err(Error::field(
                "expected_tasks",
                "must say how many tasks to wait for where until_terminal is set and no task is named",
            ));
        }
        if request.until_terminal && !request.filter.statuses.is_empty() {
            return Err(Error::field(
                "filter.statuses",
                "must be empty where until_terminal is set: the end would not be seen",
            ));
        }
        if request.expected > MAX_EXPECTED {
            return Err(Error::field(
                "expected_tasks",
                format!("must be at most {MAX_EXPECTED}, got {}", request.expected),
            ));
        }
        self.reach(&request.options.min_position).await?;
        let topics: Vec<_> = match ids.as_slice() {
            [] => vec![Topic::Tasks],
            ids => ids.iter().cloned().map(Topic::Task).collect(),
        };
        let counts = request.until_terminal && ids.is_empty();
        let mut source = TaskSource {
            digest: digest(("tasks", &request.filter)),
            lasting: TaskFilter {
                statuses: Vec::new(),
                ..request.filter.clone()
            },
            filter: request.filter,
            mark: Place::after(Revision::ZERO),
            deleted_after: Revision::ZERO,
            until_terminal: request.until_terminal,
            expected: request.expected,
            ended: HashSet::new(),
        };
        if counts {
            source.count_ended(self);
        }
        let audience = self.shared().wakers.audience(None, &topics);
        Watch::open(self.shared().clone(), source, audience, &request.options)
    }
}

impl TaskSource {
    fn counts(&self) -> bool {
        self.until_terminal && self.filter.ids.is_empty()
    }

    /// Tasks that had ended before the watch began: a resumed one does not meet them again. In
    /// slices, between which the monitor has its turn; what changes meanwhile is met at the end.
    fn count_ended(&mut self, namespace: &Namespace) {
        let mut place = Place::after(Revision::ZERO);
        loop {
            let met = namespace.read(|mirror| {
                let mut looked = 0;
                for (at, id, content) in mirror.tasks.table().changes_behind(place) {
                    if self.ended.len() >= self.expected {
                        return true;
                    }
                    if looked == COUNTED_AT_ONCE {
                        return false;
                    }
                    (place, looked) = (at, looked + 1);
                    if let Content::Live(kept) = content
                        && kept.glance().status.is_terminal()
                        && self.filter.matches_kept(id, kept)
                    {
                        self.ended.insert(id.clone());
                    }
                }
                true
            });
            if met {
                return;
            }
        }
    }

    /// Named tasks are few: each is looked up, in one go.
    fn collect_named(&mut self, mirror: &Mirror, items: &mut Vec<TaskItem>) {
        let rows = self.filter.ids.iter().filter_map(|id| {
            let (revision, content) = mirror.tasks.row(id)?;
            (revision > self.mark.revision()).then_some((revision, id, content))
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|(revision, ..)| *revision);
        for (revision, id, content) in rows {
            match self.item(revision, id, content) {
                Some(TaskItem::NoLongerMatches(..)) if revision <= self.deleted_after => {}
                item => items.extend(item),
            }
        }
        self.mark = Place::after(mirror.head);
    }

    fn item(
        &self,
        revision: Revision,
        id: &TaskId,
        content: Content<'_, Kept, Tombstone>,
    ) -> Option<TaskItem> {
        match content {
            Content::Live(kept) => {
                if self.filter.matches_kept(id, kept) {
                    return Some(TaskItem::Changed(id.clone(), revision, kept.clone()));
                }
                // Only its status can have made it match before.
                let matched = self.lasting.matches_kept(id, kept);
                matched.then(|| TaskItem::NoLongerMatches(id.clone(), kept.glance().status))
            }
            Content::Dead(removed) if revision > self.deleted_after => {
                let named = self.filter.ids.is_empty() || self.filter.ids.contains(id);
                named.then(|| TaskItem::Deleted(id.clone(), **removed))
            }
            Content::Dead(_) => None,
        }
    }
}

impl Source for TaskSource {
    const KIND: WatchKind = WatchKind::Tasks;

    type Item = TaskItem;

    fn digest(&self) -> u64 {
        self.digest
    }

    fn horizon(&self, mirror: &Mirror) -> Revision {
        mirror.horizon
    }

    fn commits(&self, mirror: &Mirror) -> u64 {
        mirror.task_commits
    }

    fn begin(&mut self, from: Revision, deleted_after: Revision) {
        self.mark = Place::after(from);
        self.deleted_after = deleted_after;
    }

    fn replaced(&mut self) {
        self.mark = self.mark.again();
    }

    fn collect(&mut self, mirror: &Mirror, limit: usize, items: &mut Vec<TaskItem>) -> bool {
        if !self.filter.ids.is_empty() {
            self.collect_named(mirror, items);
            return true;
        }
        let mut mark = self.mark;
        let mut room = limit;
        let met = walk(
            mirror.tasks.table(),
            &mut mark,
            &mut room,
            |revision, id, content| {
                // A snapshot has no use for what does not match; only deletions meanwhile are told.
                let item = match self.item(revision, id, content) {
                    Some(TaskItem::NoLongerMatches(..)) if revision <= self.deleted_after => None,
                    item => item,
                };
                let Some(item) = item else { return 0 };
                if let TaskItem::Changed(_, _, kept) = &item
                    && self.counts()
                    && kept.glance().status.is_terminal()
                    && self.ended.len() < self.expected
                {
                    self.ended.insert(id.clone());
                }
                let size = Self::size(&item);
                items.push(item);
                size
            },
        );
        self.mark = mark;
        met
    }

    fn size(item: &TaskItem) -> usize {
        match item {
            TaskItem::Changed(_, _, Kept::Whole(row)) => {
                prost::Message::encoded_len(&row.task) + 256
            }
            TaskItem::Changed(_, _, Kept::Packed(bytes)) => bytes.len() + 256,
            TaskItem::NoLongerMatches(..) | TaskItem::Deleted(..) => 256,
        }
    }

    fn parts(&self, mirror: &Mirror) -> usize {
        mirror.tasks.live_len() / TASKS_PER_PART
    }

    fn may_finish(&self) -> bool {
        self.until_terminal
    }

    fn is_finished(&self, mirror: &Mirror) -> bool {
        if !self.until_terminal {
            return false;
        }
        if self.counts() {
            return self.ended.len() >= self.expected;
        }
        self.filter.ids.iter().all(|id| match mirror.tasks.row(id) {
            Some((_, Content::Live(kept))) => kept.glance().status.is_terminal(),
            Some((_, Content::Dead(_))) => true,
            None => false,
        })
    }
}
