//! The handle to one namespace: what `service/` calls. Cheap to clone; safe to keep after the
//! monitor has ended, when every call is answered `NOT_READY`.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    Shared, SharedRef,
    clock::Now,
    command::{
        Command, Granted, LeaseRequest, LeaseStatus, OpenRequest, Opened, QueueChange,
        RenewRequest, Reply, TaskOp, UpdateRequest, Updated,
    },
    core::{state_not_found, task_not_found},
    errors::ErrorRow,
    intake::{Directive, Session},
    mirror::{InstanceRow, Mirror, StateSlot, TaskRow},
    payloads::{Aside, Unread},
    queues::QueueRow,
    tasks::Kept,
    token::{PageToken, ResumeToken, digest},
    wakers::Topic,
};
use crate::domain::{
    Epoch, Error, NamespaceId, QueueId, Reason, Revision, StateId, TaskId, Uid,
    failure::{Fingerprint, Report},
    limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, MAX_REPORTS_PER_CALL},
    state::Settings,
    task::{Glance, Payload, Phase, Status},
};

/// How long a read waits for the position it asks for.
const MIN_POSITION_PATIENCE: Duration = Duration::from_secs(10);

/// Rows one page looks at: the monitor waits meanwhile. A page of a narrow filter may therefore be
/// short, or empty, and still have a successor.
const MAX_SCANNED: usize = 20_000;

/// Which tasks a list or watch is about; an empty part matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TaskFilter {
    /// Ids.
    pub ids: Vec<TaskId>,
    /// Statuses.
    pub statuses: Vec<Status>,
    /// Queues.
    pub queues: Vec<String>,
    /// Labels that must all match.
    pub labels: BTreeMap<String, String>,
    /// The trace that it belongs to.
    pub trace_id: Option<u128>,
}

impl TaskFilter {
    /// Whether a task is meant.
    #[must_use]
    pub fn matches(&self, row: &TaskRow) -> bool {
        self.matches_glance(&row.task.id, || Glance::from(&row.task))
    }

    /// Whether a task is meant that is kept so.
    #[must_use]
    pub fn matches_kept(&self, id: &TaskId, kept: &Kept) -> bool {
        self.matches_glance(id.as_str(), || kept.glance())
    }

    fn matches_glance<'a>(&self, id: &str, task: impl FnOnce() -> Glance<'a>) -> bool {
        if !self.ids.is_empty() && !self.ids.iter().any(|one| one.as_str() == id) {
            return false;
        }
        if self.statuses.is_empty()
            && self.queues.is_empty()
            && self.labels.is_empty()
            && self.trace_id.is_none()
        {
            return true;
        }
        let task = task();
        (self.statuses.is_empty() || self.statuses.contains(&task.status))
            && (self.queues.is_empty() || self.queues.iter().any(|queue| queue == task.queue))
            && self
                .labels
                .iter()
                .all(|(key, value)| task.label(key) == Some(value.as_str()))
            && (self.trace_id.is_none() || task.trace_id() == self.trace_id)
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Empty on the last.
    pub next_page_token: String,
    /// The first page's position, on every page.
    pub position: Revision,
}

/// A queue as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueView {
    /// Its name.
    pub queue: QueueId,
    /// Settings and counts.
    pub row: QueueRow,
    /// Since when the task has waited that waits longest; none where none waits.
    pub oldest_us: Option<i64>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Namespace {
    shared: SharedRef,
}

impl Namespace {
    pub(super) fn new(shared: SharedRef) -> Self {
        Self { shared }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &NamespaceId {
        &self.shared.id
    }

    /// The store's epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// The last revision that can be seen.
    #[must_use]
    pub fn head(&self) -> Revision {
        self.shared.mirror.read().head
    }

    /// The token of a position, for reads and watches of this namespace.
    #[must_use]
    pub fn token(&self, revision: Revision) -> bytes::Bytes {
        ResumeToken {
            epoch: self.shared.epoch,
            revision,
            filter: None,
        }
        .encode()
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let ended = || {
            Error::new(
                Reason::NotReady,
                "the server is stopping, or begins anew with the namespace after a failure: retry",
            )
        };
        let (reply, answer) = oneshot::channel();
        self.shared
            .commands
            .send(command(reply))
            .await
            .map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Does something to each task; results in order, each standing or falling by itself.
    pub async fn tasks(
        &self,
        ops: Vec<Result<TaskOp, Error>>,
    ) -> Result<Vec<Result<Arc<TaskRow>, Error>>, Error> {
        self.ask(|reply| Command::Tasks { ops, reply }).await
    }

    /// Does something to one task.
    pub async fn task(&self, op: TaskOp) -> Result<Arc<TaskRow>, Error> {
        let mut results = self.tasks(vec![Ok(op)]).await?;
        results.pop().unwrap_or_else(|| {
            Err(Error::new(
                Reason::Internal,
                "one item was asked, none answered",
            ))
        })
    }

    /// Waits for work; empty when none came in time, or none whose input can be read: such an
    /// attempt is ended here, so that it neither keeps others waiting nor comes again and again.
    pub async fn lease(&self, request: LeaseRequest) -> Result<Vec<Granted>, Error> {
        let granted = self.ask(|reply| Command::Lease(request, reply)).await?;
        let rows: Vec<_> = granted.iter().map(|grant| grant.row.clone()).collect();
        let inputs = self.shared.payloads.inputs(&rows).await;
        let mut given = Vec::with_capacity(granted.len());
        let mut ends = Vec::new();
        for (mut grant, input) in granted.into_iter().zip(inputs) {
            match input {
                Ok(input) => {
                    grant.input = input;
                    given.push(grant);
                }
                Err(unread) => ends.extend(unread.end_of(&grant.row).map(Ok)),
            }
        }
        if !ends.is_empty() {
            let ended = self.tasks(ends).await;
            // What is not ended so runs out by itself; the others have been waited for.
            if given.is_empty() {
                ended?;
            }
        }
        Ok(given)
    }

    /// Renews leases; statuses in order.
    pub async fn renew(&self, request: RenewRequest) -> Result<Vec<LeaseStatus>, Error> {
        self.ask(|reply| Command::Renew(request, reply)).await
    }

    /// Updates a state, creating it where it does not stand.
    pub async fn update(&self, request: UpdateRequest) -> Result<Updated, Error> {
        self.ask(|reply| Command::Update(request, reply)).await
    }

    /// Deletes a state.
    pub async fn delete_state(&self, state: StateId, uid: Option<Uid>) -> Result<Revision, Error> {
        self.ask(|reply| Command::DeleteState { state, uid, reply })
            .await
    }

    /// Replaces a state's settings, creating it where it does not stand.
    pub async fn set_state(&self, state: StateId, settings: Settings) -> Result<Revision, Error> {
        let command = |reply| Command::StateSettings {
            state,
            settings,
            reply,
        };
        self.ask(command).await
    }

    /// Changes a queue's settings.
    pub async fn set_queue(&self, queue: QueueId, change: QueueChange) -> Result<Revision, Error> {
        let command = |reply| Command::SetQueue {
            queue,
            change,
            reply,
        };
        self.ask(command).await
    }

    /// Counts failures that occurred outside of leased tasks, each once however often it is reported;
    /// says when they are durable.
    pub(crate) async fn report(&self, reports: Vec<Report>) -> Result<Revision, Error> {
        let count = reports.len();
        if count > MAX_REPORTS_PER_CALL {
            let problem =
                format!("may hold {MAX_REPORTS_PER_CALL} failures, got {count}: split the call");
            return Err(Error::field("reports", problem).with("limit", MAX_REPORTS_PER_CALL));
        }
        if count == 0 {
            return Ok(self.head());
        }
        self.ask(|reply| Command::Report(reports, reply)).await
    }

    /// One error group, with the position it was read at.
    pub fn get_error_group(&self, fingerprint: Fingerprint) -> Result<(ErrorRow, Revision), Error> {
        let mirror = self.shared.mirror.read();
        let row = mirror.errors.get(fingerprint);
        row.map(|row| (row, mirror.head)).ok_or_else(|| {
            let message = format!("there is no error group {fingerprint}: list the groups");
            Error::new(Reason::ErrorGroupNotFound, message).with("fingerprint", fingerprint)
        })
    }

    /// Error groups, in the order of their fingerprints.
    pub fn list_error_groups(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<Page<ErrorRow>, Error> {
        let size = page_size_of(page_size)?;
        let digest = digest("errors");
        let mirror = self.shared.mirror.read();
        let (start, position) = page_start(page_token, digest, mirror.head)?;
        let from = match start {
            Some(after) => {
                let after = Fingerprint::parse("page_token", &after);
                Bound::Excluded(after.map_err(|_| mismatch())?)
            }
            None => Bound::Unbounded,
        };
        let mut rows = mirror.errors.after(from);
        let taken: Vec<_> = rows.by_ref().take(size).collect();
        let more = rows.next().is_some();
        let last = taken
            .last()
            .filter(|_| more)
            .map(|(one, _)| one.to_string());
        Ok(Page {
            items: taken.into_iter().map(|(_, row)| row).collect(),
            next_page_token: next_page(digest, position, last),
            position,
        })
    }

    /// Opens a push stream.
    pub async fn open_writer(&self, request: OpenRequest) -> Result<Opened, Error> {
        self.ask(|reply| Command::OpenWriter(request, reply)).await
    }

    /// Hands in the batches of one frame, an encoded `UpdateBatches` message; says how many they
    /// were.
    pub fn push(&self, session: &Arc<Session>, frame: &[u8]) -> Result<u64, Error> {
        let accepted = self.shared.intake.push(session, frame)?;
        self.shared.probe.metrics.pushed(accepted.counts);
        Ok(accepted.batches)
    }

    /// A push stream is over; what it handed in is still merged.
    pub fn leave(&self, session: &Arc<Session>) {
        self.shared.intake.leave(session);
    }

    /// What a push stream has handed in, and what still comes, is merged without regard to the
    /// state's merge interval: its writer is done and waits.
    pub fn hurry(&self, session: &Arc<Session>) {
        self.shared.intake.hurry(session);
    }

    /// A push stream was heard of: its lease, if it has one, is renewed. Where the monitor is too
    /// busy to hear it, batches or the next word will do.
    pub fn keep_alive(&self, session: &Session) {
        if let Some((token, _)) = &session.lease {
            let _ = self
                .shared
                .commands
                .try_send(Command::KeepAlive(token.clone()));
        }
    }

    /// Open push streams of a state.
    #[must_use]
    pub fn writers(&self, state: &StateId) -> Vec<Arc<Session>> {
        let mut sessions = self.shared.intake.sessions();
        sessions.retain(|session| session.state == *state);
        sessions
    }

    /// How many push streams each state has open, and how many batches they have queued.
    #[must_use]
    pub fn all_writers(&self) -> HashMap<StateId, (usize, u64)> {
        let mut writers = HashMap::<_, (usize, u64)>::new();
        for session in self.shared.intake.sessions() {
            let (open, queued) = writers.entry(session.state.clone()).or_default();
            *open += 1;
            *queued += session.queued();
        }
        writers
    }

    /// Waits until what a token stands for can be seen. `EPOCH_CHANGED` for another life's token.
    pub async fn reach(&self, token: &[u8]) -> Result<(), Error> {
        if token.is_empty() {
            return Ok(());
        }
        let token = ResumeToken::decode(token)?;
        if token.epoch != self.shared.epoch {
            return Err(Error::new(
                Reason::EpochChanged,
                format!(
                    "the position is of epoch {}, the store is in epoch {}: read anew",
                    token.epoch, self.shared.epoch
                ),
            ));
        }
        let mut head = self.shared.wakers.subscribe(Topic::Head);
        let wait = async {
            while self.head() < token.revision {
                if head.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(MIN_POSITION_PATIENCE, wait)
            .await
            .map_err(|_| {
                Error::new(
                    Reason::NotReady,
                    format!(
                        "revision {} is not here yet, the head is {}: retry",
                        token.revision,
                        self.head()
                    ),
                )
            })
    }

    /// One task, with the position it was read at.
    pub fn get_task(&self, id: &TaskId) -> Result<(Arc<TaskRow>, Revision), Error> {
        let mirror = self.shared.mirror.read();
        let row = mirror.tasks.get(id).ok_or_else(|| task_not_found(id))?;
        Ok((row, mirror.head))
    }

    /// The data of a task's input and output that its record does not hold.
    pub async fn aside(&self, row: &TaskRow) -> Result<Aside, Error> {
        let aside = self.shared.payloads.aside(&row.task).await?;
        aside.ok_or_else(|| task_not_found(&TaskId::trusted(&row.task.id)))
    }

    /// The input of each task with the data that its record does not hold; in order.
    /// `TASK_NOT_FOUND` for one that is gone since.
    pub async fn inputs(&self, rows: &[Arc<TaskRow>]) -> Vec<Result<Option<Payload>, Error>> {
        let found = self.shared.payloads.inputs(rows).await.into_iter();
        let input = |(data, row): (Result<Option<bytes::Bytes>, Unread>, &Arc<TaskRow>)| {
            let task = &row.task;
            let data = data.map_err(|unread| {
                let id = TaskId::trusted(&task.id);
                match self.get_task(&id) {
                    Ok((now, _)) if now.task.uid == task.uid => unread.error(&task.id),
                    _ => task_not_found(&id),
                }
            })?;
            let input = task.input.clone().map(|input| Payload {
                data: data.unwrap_or(input.data),
                ..input
            });
            Ok(input)
        };
        found.zip(rows).map(input).collect()
    }

    /// About where a waiting task stands in its queue, from 1; none where it does not wait. See
    /// `ready::place` for what is counted.
    #[must_use]
    pub fn place_of(&self, row: &TaskRow) -> Option<usize> {
        if !matches!(row.task.phase, Some(Phase::Queued(_))) {
            return None;
        }
        let before = self.shared.ready.lock().before(&row.task, row.revision)?;
        Some(before + 1)
    }

    /// One queue, with the position it was read at; one that nobody has named is empty, with default
    /// settings.
    #[must_use]
    pub fn get_queue(&self, queue: QueueId) -> (QueueView, Revision) {
        let mirror = self.shared.mirror.read();
        let row = mirror.queues.get(queue.as_str()).cloned();
        let view = self.queue_view(&mirror, queue, row.unwrap_or_default());
        (view, mirror.head)
    }

    /// Queues that have settings or tasks, by name.
    pub fn list_queues(&self, page_size: i32, page_token: &str) -> Result<Page<QueueView>, Error> {
        let size = page_size_of(page_size)?;
        let digest = digest("queues");
        let mirror = self.shared.mirror.read();
        let (start, position) = page_start(page_token, digest, mirror.head)?;
        let from = start.map_or(Bound::Unbounded, |after| {
            Bound::Excluded(QueueId::trusted(&after))
        });
        let mut rows = mirror.queues.after(from);
        let taken: Vec<_> = rows.by_ref().take(size).collect();
        let more = rows.next().is_some();
        let last = taken.last().filter(|_| more).map(|(id, _)| id.to_string());
        let items = taken.into_iter();
        Ok(Page {
            items: items
                .map(|(queue, row)| self.queue_view(&mirror, queue.clone(), row.clone()))
                .collect(),
            next_page_token: next_page(digest, position, last),
            position,
        })
    }

    fn queue_view(&self, mirror: &Mirror, queue: QueueId, row: QueueRow) -> QueueView {
        // Held for a look at a time: the monitor wants it too.
        let oldest = self.shared.ready.lock().oldest(queue.as_str());
        let oldest = oldest.and_then(|revision| mirror.tasks.at(revision));
        let oldest = oldest.and_then(|row| match &row.task.phase {
            Some(Phase::Queued(queued)) => Some(queued.since_us),
            _ => None,
        });
        // The lines follow the mirror, a moment later: what waits has then only just come, or is on
        // its way to a worker.
        let now = || Now::read().wall_us;
        let waits = row.count(Status::Queued) > 0;
        let oldest_us = waits.then(|| oldest.unwrap_or_else(now));
        QueueView {
            queue,
            row,
            oldest_us,
        }
    }

    /// Tasks, newest first.
    pub fn list_tasks(
        &self,
        filter: &TaskFilter,
        page_size: i32,
        page_token: &str,
    ) -> Result<Page<Arc<TaskRow>>, Error> {
        let size = page_size_of(page_size)?;
        let digest = digest(("tasks", filter));
        let mirror = self.shared.mirror.read();
        let (start, position) = page_start(page_token, digest, mirror.head)?;
        let before = match start {
            Some(after) => Revision(after.parse().map_err(|_| mismatch())?),
            None => Revision(u64::MAX),
        };
        let mut items = Vec::new();
        let mut last = None;
        for (scanned, (created, id, revision, kept)) in mirror.tasks.newest(before).enumerate() {
            if scanned >= MAX_SCANNED || items.len() >= size {
                last = Some((created.0 + 1).to_string());
                break;
            }
            if filter.matches_kept(id, kept) {
                items.push(kept.unpack(id, revision));
            }
        }
        Ok(Page {
            next_page_token: next_page(digest, position, last),
            items,
            position,
        })
    }

    /// Reads one state where it stands.
    pub fn read_state<T>(
        &self,
        id: &StateId,
        read: impl FnOnce(&StateSlot, Revision) -> T,
    ) -> Result<T, Error> {
        let mirror = self.shared.mirror.read();
        let slot = mirror.states.get(id).filter(|slot| slot.state.alive());
        slot.map(|slot| read(slot, mirror.head))
            .ok_or_else(|| state_not_found(id))
    }

    /// The large value whose entry stands at a revision, encoded; none where a newer one has
    /// replaced it and its entry is gone.
    pub async fn large_value(&self, at: Revision) -> Result<Option<bytes::Bytes>, Error> {
        self.shared.values.get(at).await
    }

    /// States by name; `read` makes what the caller wants of each.
    pub fn list_states<T>(
        &self,
        page_size: i32,
        page_token: &str,
        read: impl Fn(&StateId, &StateSlot) -> T,
    ) -> Result<Page<T>, Error> {
        let size = page_size_of(page_size)?;
        let digest = digest("states");
        let mirror = self.shared.mirror.read();
        let (start, position) = page_start(page_token, digest, mirror.head)?;
        let from = start.map_or(Bound::Unbounded, |after| {
            Bound::Excluded(StateId::trusted(&after))
        });
        let mut slots = mirror
            .states
            .range((from, Bound::Unbounded))
            .filter(|(_, slot)| slot.state.alive());
        let taken: Vec<_> = slots.by_ref().take(size).collect();
        let more = slots.next().is_some();
        let last = taken.last().filter(|_| more).map(|(id, _)| id.to_string());
        let items = taken.into_iter().map(|(id, slot)| read(id, slot)).collect();
        Ok(Page {
            items,
            next_page_token: next_page(digest, position, last),
            position,
        })
    }

    /// Worker instances that were not given up, with the number of leases each holds and whether
    /// one of them is suspect.
    pub fn list_instances(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<Page<(InstanceRow, usize, bool)>, Error> {
        let size = page_size_of(page_size)?;
        let digest = digest("instances");
        let mirror = self.shared.mirror.read();
        let (start, position) = page_start(page_token, digest, mirror.head)?;
        let from = match start {
            Some(after) => {
                Bound::Excluded(Uid::parse("page_token", &after).map_err(|_| mismatch())?)
            }
            None => Bound::Unbounded,
        };
        let mut rows = mirror
            .instances
            .range((from, Bound::Unbounded))
            .filter(|(_, row)| !row.record.expired);
        let taken: Vec<_> = rows.by_ref().take(size).collect();
        let more = rows.next().is_some();
        let last = taken
            .last()
            .filter(|_| more)
            .map(|(uid, _)| uid.to_string());
        let none = std::collections::BTreeSet::new();
        let item = |uid, row: &InstanceRow| {
            let leased = mirror.leased.get(uid).unwrap_or(&none);
            let mut tasks = leased.iter().filter_map(|id| mirror.tasks.get(id));
            let suspect = tasks.any(|row| row.task.suspect_us != 0);
            (row.clone(), leased.len(), suspect)
        };
        let items = taken.into_iter().map(|(uid, row)| item(uid, row)).collect();
        Ok(Page {
            items,
            next_page_token: next_page(digest, position, last),
            position,
        })
    }

    /// Looks at the whole mirror; for tests and the engine's own watches. Be brief: the monitor
    /// waits.
    pub fn read<T>(&self, read: impl FnOnce(&Mirror) -> T) -> T {
        read(&self.shared.mirror.read())
    }

    pub(super) fn direct_reconnect(&self) {
        for session in self.shared.intake.sessions() {
            session.direct(Directive::Reconnect);
        }
    }

    /// Resolves when the monitor has ended.
    pub async fn ended(&self) {
        self.shared.ended.cancelled().await;
    }
}

fn page_size_of(asked: i32) -> Result<usize, Error> {
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT_PAGE_SIZE),
        Ok(size) => Ok(size.min(MAX_PAGE_SIZE)),
        Err(_) => Err(Error::field(
            "page_size",
            format!("must not be negative, got {asked}"),
        )),
    }
}

fn page_start(
    token: &str,
    digest: u64,
    head: Revision,
) -> Result<(Option<String>, Revision), Error> {
    if token.is_empty() {
        return Ok((None, head));
    }
    let token = PageToken::decode(token, digest)?;
    Ok((Some(token.after), token.first_page))
}

fn next_page(filter: u64, first_page: Revision, last: Option<String>) -> String {
    last.map_or_else(String::new, |after| {
        PageToken {
            filter,
            first_page,
            after,
        }
        .encode()
    })
}

fn mismatch() -> Error {
    Error::new(
        Reason::PageTokenMismatch,
        "the page token belongs to another request: start without it",
    )
}
