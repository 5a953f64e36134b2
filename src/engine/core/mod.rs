//! The monitor's mind: everything it does between waiting and appending, without a clock, I/O or
//! async.
//!
//! One round: [`Core::plan`] turns what has arrived (commands, pushed batches, timers) into a group
//! of drafts; the loop in `monitor.rs` appends it; [`Core::applied`] folds what the journal
//! returned, answers callers, acknowledges writers and wakes watches. One group is in flight at a
//! time, so a plan always looks at a mirror that is equal to the journal; what concerns an entity
//! that the group touches already waits for the next.

mod aside;
mod errors;
mod follow;
mod group;
mod holding;
mod leases;
mod own;
mod pace;
mod queues;
mod retention;
mod shortage;
mod states;
mod tasks;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use aside::Aside;
use group::{Group, Lane};
use holding::Held;
use pace::Pause;
use retention::Ended;
pub(crate) use states::state_not_found;
pub(crate) use tasks::task_not_found;

#[cfg(test)]
use super::recovery::Point;
use super::{
    Shared,
    clock::Now,
    command::LeaseStatus,
    command::{
        Command, Granted, LeaseRequest, OpenRequest, Opened, QueueChange, RenewRequest, Reply,
        TaskOp, TaskOpKind, UpdateRequest, Updated,
    },
    intake::Directive,
    mirror::{Folded, TaskRow},
    recovery::Whole,
    timers::{Timer, Timers},
};
use crate::{
    domain::{
        Entry, Error, QueueId, Reason, Revision, StateId, TaskId, Uid,
        failure::Report,
        state::{Settings, StateDelta},
        task::Event,
    },
    journal::{AppendError, Appended, Draft},
    telemetry::metrics::GroupCounts,
};

/// Items planned in one round; the rest waits for the next, so that acknowledgements keep coming.
const MAX_WORK_PER_GROUP: usize = 2_048;
/// Bytes that a group takes of one kind of work, roughly; a commit of this size takes some ten
/// milliseconds. See [`group::Lane`] for the kinds.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// An idle worker instance is given up after this long without a word.
const INSTANCE_SILENCE: Duration = Duration::from_secs(90);
/// How often the head is noted and old removals are looked for.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// After the journal refused a group, planning rests this long.
const REFUSAL_PAUSE: Duration = Duration::from_millis(500);

/// Something to plan.
#[derive(Debug)]
enum Work {
    Task {
        op: TaskOp,
        ticket: Option<Ticket>,
    },
    Remove(TaskId),
    Renew(RenewRequest, Reply<Vec<LeaseStatus>>),
    Update(UpdateRequest, Reply<Updated>),
    Delete {
        state: StateId,
        uid: Option<Uid>,
        reply: Reply<Revision>,
    },
    Settings {
        state: StateId,
        settings: Settings,
        reply: Reply<Revision>,
    },
    /// Nobody has written to it for its retention.
    Expire(StateId),
    SetQueue {
        queue: QueueId,
        change: QueueChange,
        reply: Reply<Revision>,
    },
    Report(Vec<Report>, Reply<Revision>),
    Open(OpenRequest, Reply<Opened>),
}

impl Work {
    /// An event that nobody asked for.
    fn event(id: TaskId, event: Event) -> Self {
        let kind = TaskOpKind::Event(event);
        Self::Task {
            op: TaskOp { id, kind },
            ticket: None,
        }
    }
}

/// Where an item's result goes: a call, and the place in it.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    call: u64,
    place: usize,
}

/// A call whose items are planned one by one.
#[derive(Debug)]
struct Call {
    open: usize,
    results: Vec<Option<Result<Arc<TaskRow>, Error>>>,
    reply: Reply<Vec<Result<Arc<TaskRow>, Error>>>,
}

/// A worker that waits for work.
#[derive(Debug)]
struct Poll {
    request: Arc<LeaseRequest>,
    reply: Reply<Vec<Granted>>,
    deadline: Duration,
    /// The line was looked at for it.
    served: bool,
    /// Its worker is known to be there.
    registered: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    shared: Arc<Shared>,
    now: Now,
    random: fastrand::Rng,
    /// What callers ask.
    backlog: VecDeque<Work>,
    /// The monitor's own work: see `own.rs`.
    events: VecDeque<Work>,
    removals: VecDeque<Work>,
    calls: HashMap<u64, Call>,
    polls: BTreeMap<u64, Poll>,
    next_id: u64,
    timers: Timers,
    held: HashMap<TaskId, Held>,
    /// Workers whose last stream broke, and when.
    broken: HashMap<Uid, Duration>,
    ended: Ended,
    aside: Aside,
    /// Tasks that wait for a time by the wall clock, in its order; by the revision that created them.
    scheduled: BTreeSet<(i64, Revision)>,
    contacts: HashMap<Uid, Duration>,
    finishing: BTreeMap<TaskId, Duration>,
    /// Something happened that finishing tasks may have waited for.
    finishing_due: bool,
    /// A task became ready or a worker began to wait since they were last brought together.
    match_due: bool,
    /// News for the push streams under a task's lease, told in one go.
    directives: HashMap<TaskId, Vec<Directive>>,
    started: Duration,
    /// How far the wall clock was ahead of the monotonic one at the last look, and when it was found
    /// put forward last.
    wall_ahead_us: i64,
    wall_put: Option<Duration>,
    /// Uids of tasks that have not ended: states remember fences and contributions of these.
    open_tasks: HashSet<Uid>,
    /// When tasks that have not ended will have taken too long in all; of those with such a limit.
    totals: HashMap<Uid, Duration>,
    snapshots_due: HashSet<StateId>,
    /// States that were merged less than their merge interval ago.
    pauses: HashMap<StateId, Pause>,
    /// The head as it was at past times, oldest first.
    head_times: VecDeque<(Duration, Revision)>,
    in_flight: Option<Group>,
    resting_until: Duration,
    /// It rests because the journal has no room but, perhaps, for what removes.
    cramped: bool,
    /// Why the journal wants nothing that adds.
    shortage: Option<Arc<str>>,
    draining: bool,
}

impl Core {
    /// Takes up a replayed mirror. Every lease gets one full period from now.
    pub(crate) fn new(shared: Arc<Shared>, now: Now, seed: u64) -> Self {
        let mut core = Self {
            shared,
            now,
            random: fastrand::Rng::with_seed(seed),
            backlog: VecDeque::new(),
            events: VecDeque::new(),
            removals: VecDeque::new(),
            calls: HashMap::new(),
            polls: BTreeMap::new(),
            next_id: 0,
            timers: Timers::default(),
            held: HashMap::new(),
            broken: HashMap::new(),
            ended: Ended::default(),
            aside: Aside::default(),
            scheduled: BTreeSet::new(),
            contacts: HashMap::new(),
            finishing: BTreeMap::new(),
            finishing_due: true,
            match_due: true,
            directives: HashMap::new(),
            started: now.mono,
            wall_ahead_us: now
                .wall_us
                .saturating_sub(i64::try_from(now.mono.as_micros()).unwrap_or(i64::MAX)),
            wall_put: None,
            open_tasks: HashSet::new(),
            totals: HashMap::new(),
            snapshots_due: HashSet::new(),
            pauses: HashMap::new(),
            head_times: VecDeque::new(),
            in_flight: None,
            resting_until: Duration::ZERO,
            cramped: false,
            shortage: None,
            draining: false,
        };
        core.take_up_mirror();
        core
    }

    /// Takes a command; some are answered at once.
    pub(crate) fn command(&mut self, command: Command, now: Now) {
        self.now = now;
        match command {
            Command::Tasks { ops, reply } => self.open_call(ops, reply),
            Command::Lease(request, reply) => self.open_poll(request, reply),
            Command::Renew(request, reply) => self.backlog.push_back(Work::Renew(request, reply)),
            Command::Update(request, reply) => self.backlog.push_back(Work::Update(request, reply)),
            Command::DeleteState { state, uid, reply } => {
                self.backlog.push_back(Work::Delete { state, uid, reply });
            }
            Command::StateSettings {
                state,
                settings,
                reply,
            } => self.backlog.push_back(Work::Settings {
                state,
                settings,
                reply,
            }),
            Command::SetQueue {
                queue,
                change,
                reply,
            } => self.backlog.push_back(Work::SetQueue {
                queue,
                change,
                reply,
            }),
            Command::Report(reports, reply) => {
                self.backlog.push_back(Work::Report(reports, reply));
            }
            Command::OpenWriter(request, reply) => {
                self.backlog.push_back(Work::Open(request, reply));
            }
            Command::KeepAlive(token) => self.keep_alive(&token),
        }
    }

    /// Whether more commands should wait where they are. The monitor's own work does not count: it
    /// is tried again for as long as the journal refuses it, and callers are answered meanwhile.
    pub(crate) fn is_full(&self) -> bool {
        self.backlog.len() >= 4 * MAX_WORK_PER_GROUP
    }

    /// When something is to be done even if nothing arrives.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        if self.cramped && !self.removals.is_empty() {
            return Some(self.now.mono);
        }
        let waits = [&self.backlog, &self.events, &self.removals];
        let next = if waits.into_iter().all(VecDeque::is_empty) {
            self.timers.next().into_iter().chain(self.next_due()).min()
        } else {
            Some(self.now.mono)
        };
        next.map(|at| at.max(self.resting_until))
    }

    /// No work is handed out any more; waiting polls are answered empty, and what waits for a merge
    /// interval is merged.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        self.release_all();
        for (_, poll) in std::mem::take(&mut self.polls) {
            let _ = poll.reply.send(Ok(Vec::new()));
        }
    }

    /// Nothing is left to plan or in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
            && self.backlog.is_empty()
            && self.events.is_empty()
            && self.removals.is_empty()
            && !self.shared.intake.has_work()
            && self.pauses.values().all(Pause::is_empty)
    }

    /// Plans the next group from everything that has arrived; `None` where there is nothing to do
    /// or a group is in flight.
    pub(crate) fn plan(&mut self, now: Now) -> Option<Vec<Draft>> {
        self.now = now;
        #[cfg(test)]
        if !self.backlog.is_empty() || self.shared.intake.has_work() {
            self.shared.trap.spring(Point::Plan);
        }
        let rests = now.mono < self.resting_until;
        if self.in_flight.is_some() || rests && !self.cramped {
            return None;
        }
        self.look_at_wall();
        let mut group = Group::default();
        if rests {
            self.plan_removals_alone(&mut group);
        } else {
            self.cramped = false;
            self.note_broken();
            self.keep_few();
            self.fire_timers(&mut group);
            if !group.forgets {
                self.plan_arrivals(&mut group);
            }
        }
        let drafts = group.seal(&self.now, &mut || Uid(self.random.u128(..)));
        if drafts.is_empty() {
            return None;
        }
        self.in_flight = Some(group);
        Some(drafts)
    }

    fn plan_arrivals(&mut self, group: &mut Group) {
        group.enter(Lane::Snapshots);
        self.plan_snapshots(group);
        self.plan_own(group);
        group.enter(Lane::Calls);
        let backlog = std::mem::take(&mut self.backlog);
        let left = self.plan_line(backlog, MAX_WORK_PER_GROUP, group);
        own::put_back(&mut self.backlog, left);
        group.enter(Lane::Pushes);
        self.plan_pushes(group);
        group.enter(Lane::Finishing);
        self.plan_finishing(group);
        group.enter(Lane::Leases);
        self.plan_leases(group);
    }

    /// Plans one item, or gives it back for the next round.
    fn plan_work(&mut self, work: Work, group: &mut Group) -> Option<Work> {
        match self.refuse_addition(work)? {
            Work::Task { op, ticket } => self.plan_task(op, ticket, group),
            Work::Remove(id) => self.plan_removal(id, group),
            Work::Renew(request, reply) => self.plan_renewal(request, reply, group),
            Work::Update(request, reply) => self.plan_update(request, reply, group),
            Work::Delete { state, uid, reply } => self.plan_deletion(state, uid, reply, group),
            Work::Settings {
                state,
                settings,
                reply,
            } => self.plan_settings(state, settings, reply, group),
            Work::Expire(state) => {
                self.plan_expiry(state, group);
                None
            }
            Work::SetQueue {
                queue,
                change,
                reply,
            } => self.plan_queue(queue, change, reply, group),
            Work::Report(reports, reply) => self.plan_report(reports, reply, group),
            Work::Open(request, reply) => self.plan_open(request, reply, group),
        }
    }

    /// Folds what the journal returned for the group in flight.
    pub(crate) fn applied(&mut self, appended: Appended, now: Now) {
        self.now = now;
        let group = self.in_flight.take().unwrap_or_default();
        // Before the mirror refers to them, so that nobody has to read them back.
        let mut counts = GroupCounts::default();
        for committed in &appended.committed {
            match &committed.entry {
                Entry::StateValue(entry) => {
                    self.shared.values.keep(committed.revision, &entry.value);
                }
                Entry::StateDelta(delta) => count(delta, &mut counts),
                _ => {}
            }
        }
        self.shared.probe.metrics.merged(counts);
        self.shared.payloads.keep(appended.committed.iter());
        let folded: Vec<_> = {
            let mut mirror = self.shared.mirror.write();
            let mut mirror = Whole::of(&mut mirror);
            #[cfg(test)]
            let mut until_half = appended.committed.len().div_ceil(2);
            let committed = appended.committed.into_iter();
            let folded = committed
                .map(|entry| {
                    let revision = entry.revision;
                    let fold = mirror.apply(entry);
                    if let Folded::Delta { state, .. } = &fold {
                        mirror.note_merge(state, now.mono);
                    }
                    #[cfg(test)]
                    {
                        until_half = until_half.wrapping_sub(1);
                        if until_half == 0 {
                            self.shared.trap.spring(Point::Fold);
                        }
                    }
                    (revision, fold)
                })
                .collect();
            mirror.done();
            folded
        };
        self.follow_all(&folded);
        #[cfg(test)]
        self.shared.trap.spring(Point::Settle);
        let mut folded = folded.into_iter();
        let mut granted = BTreeMap::new();
        for (settle, outcome) in group.into_settles().into_iter().zip(appended.outcomes) {
            match outcome {
                Ok(revision) => {
                    // Both are in the journal's order.
                    let fold = folded
                        .find(|(found, _)| *found == revision)
                        .map(|(_, fold)| fold);
                    self.settle(settle, revision, fold, &mut granted);
                }
                Err(conflict) => {
                    let error = Error::new(
                        Reason::Internal,
                        format!(
                            "another entry was committed first, at revision {}: retry",
                            conflict.found
                        ),
                    );
                    tracing::error!(
                        found = conflict.found.0,
                        ?settle,
                        "compare-and-set lost with a single writer"
                    );
                    self.refuse(settle, &error);
                }
            }
        }
        self.answer_polls(granted);
    }

    /// The group in flight was not committed, or nobody can tell.
    pub(crate) fn failed(&mut self, error: &AppendError, now: Now) {
        self.now = now;
        self.resting_until = now.mono + REFUSAL_PAUSE;
        self.set_timer(self.resting_until, Timer::Look);
        let reason = match error {
            AppendError::Full(_) => Reason::StorageFull,
            AppendError::Refused(_) | AppendError::Unknown(_) => Reason::JournalUnavailable,
        };
        let group = self.in_flight.take().unwrap_or_default();
        self.cramped = matches!(error, AppendError::Full(_)) && !group.removes;
        let error = Error::new(reason, error.to_string());
        for settle in group.into_settles() {
            self.refuse(settle, &error);
        }
    }

    /// Answers everyone who still waits: the monitor ends.
    pub(crate) fn abandon(&mut self, error: &Error) {
        for session in self.shared.intake.sessions() {
            session.close(error.clone());
        }
        for (_, poll) in std::mem::take(&mut self.polls) {
            let _ = poll.reply.send(Ok(Vec::new()));
        }
        for (_, call) in std::mem::take(&mut self.calls) {
            let _ = call.reply.send(Err(error.clone()));
        }
        for work in std::mem::take(&mut self.backlog) {
            match work {
                Work::Renew(_, reply) => drop(reply.send(Err(error.clone()))),
                Work::Update(_, reply) => drop(reply.send(Err(error.clone()))),
                Work::Delete { reply, .. }
                | Work::Settings { reply, .. }
                | Work::SetQueue { reply, .. }
                | Work::Report(_, reply) => {
                    drop(reply.send(Err(error.clone())));
                }
                Work::Open(_, reply) => drop(reply.send(Err(error.clone()))),
                Work::Task { .. } | Work::Remove(_) | Work::Expire(_) => {}
            }
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn set_timer(&mut self, at: Duration, timer: Timer) {
        self.timers.set(at, timer);
    }
}

/// Adds up what a delta holds; one without parts is settings.
fn count(delta: &StateDelta, counts: &mut GroupCounts) {
    counts.deltas += u64::from(!delta.parts.is_empty());
    for part in &delta.parts {
        counts.merges += 1;
        counts.batches += (part.last_sequence + 1).saturating_sub(part.first_sequence);
        counts.operations += part.ops.len() as u64;
    }
}
