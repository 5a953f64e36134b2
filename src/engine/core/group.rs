//! A group of drafts in the making, and what becomes of each when it is committed.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{
    super::{
        clock::Now,
        command::{LeaseStatus, OpenRequest, Opened, Reply, Updated},
        intake::Session,
        ready::Taken,
    },
    MAX_GROUP_BYTES, Ticket,
    errors::ErrorPlan,
    states::weight,
};
use crate::{
    domain::{
        Entry, QueueId, Revision, StateId, TaskId, Uid,
        state::{Op, Part, StateDelta},
        task::Event,
    },
    journal::Draft,
};

/// What a committed or refused draft leads to.
#[derive(Debug)]
pub(super) enum Settle {
    /// Nothing to tell anyone.
    Nothing,
    /// An item of a call.
    Item(Ticket),
    /// An event of the monitor's own: tried again where it is refused.
    Own(TaskId, Event),
    /// A removal by retention: tried again where it is refused.
    Removal(TaskId),
    /// Work for a poll.
    Lease {
        poll: u64,
        task: TaskId,
        taken: Taken,
    },
    /// A renewal.
    Renewal(Reply<Vec<LeaseStatus>>, Vec<LeaseStatus>),
    /// A delta's parts.
    Parts(Vec<PartSettle>),
    /// A deletion.
    Deletion(Reply<Revision>),
    /// New settings.
    Settings(StateId, Reply<Revision>),
    /// New settings of a queue.
    Queue(Reply<Revision>),
    /// Counts of failures, for who reported some.
    Reported(Vec<Reply<Revision>>),
}

/// Kinds of work. Each has a budget of its own in every group, so that none keeps another waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Lane {
    /// Snapshots of states whose deltas outweigh them.
    #[default]
    Snapshots,
    /// What happens to tasks by themselves, and what leaves.
    Own,
    /// Commands.
    Calls,
    /// Batches of push streams.
    Pushes,
    /// Tasks on their way to their end, with their contributions.
    Finishing,
    /// Tasks given to workers.
    Leases,
}

impl Lane {
    const COUNT: usize = 6;

    /// Bytes after which the rest of its kind waits for the next group.
    const fn budget(self) -> usize {
        match self {
            Self::Snapshots | Self::Pushes => MAX_GROUP_BYTES,
            Self::Own | Self::Calls | Self::Finishing | Self::Leases => MAX_GROUP_BYTES / 2,
        }
    }
}

/// What a part of a committed delta leads to.
#[derive(Debug)]
pub(super) enum PartSettle {
    /// A contribution: the finishing task is looked at each round.
    Contribution,
    /// Batches of a push stream.
    Session {
        session: Arc<Session>,
        last: u64,
        bytes: usize,
    },
    /// A unary update.
    Update(Reply<Updated>),
    /// A writer whose fence had to be raised first.
    Open(OpenRequest, Uid, Reply<Opened>),
}

/// The delta of one state in the making.
#[derive(Debug, Default)]
pub(super) struct DeltaPlan {
    pub(super) parts: Vec<Part>,
    pub(super) settles: Vec<PartSettle>,
    /// Operations in its parts, and roughly their bytes.
    pub(super) ops: usize,
    pub(super) bytes: usize,
    /// Requests and writers in it: each has at most one part.
    pub(super) writers: HashSet<Uid>,
    /// Compare-and-set on the state's last entry; nothing may join.
    pub(super) exclusive: Option<Revision>,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    drafts: Vec<Draft>,
    settles: Vec<Settle>,
    tasks: HashSet<TaskId>,
    instances: HashSet<Uid>,
    queues: HashSet<QueueId>,
    deltas: BTreeMap<StateId, DeltaPlan>,
    /// What failed, by error group.
    pub(super) errors: ErrorPlan,
    /// States with an entry of their own in this group: no delta may follow a deletion, and
    /// nothing that compares-and-sets may follow a snapshot.
    rewritten: HashSet<StateId>,
    deleted: HashSet<StateId>,
    lane: Lane,
    bytes: [usize; Lane::COUNT],
    /// It moves the horizon. What it forgets the mirror still shows, so nothing else is planned.
    pub(super) forgets: bool,
    /// It only removes: a journal that has no room for anything else may have for it.
    pub(super) removes: bool,
}

impl Group {
    /// What is added from now on is work of this kind.
    pub(super) fn enter(&mut self, lane: Lane) {
        self.lane = lane;
    }

    /// So much was added of the present kind that the rest of it should wait.
    pub(super) fn is_heavy(&self) -> bool {
        self.bytes[self.lane as usize] > self.lane.budget()
    }

    pub(super) fn add_bytes(&mut self, bytes: usize) {
        self.bytes[self.lane as usize] += bytes;
    }

    /// Bytes that one state has in this group, roughly.
    pub(super) fn bytes_of(&self, state: &StateId) -> usize {
        self.deltas.get(state).map_or(0, |delta| delta.bytes)
    }

    pub(super) fn push(&mut self, draft: Draft, settle: Settle) {
        self.drafts.push(draft);
        self.settles.push(settle);
    }

    /// A task has at most one entry in a group.
    pub(super) fn has_task(&self, id: &TaskId) -> bool {
        self.tasks.contains(id)
    }

    pub(super) fn touch_task(&mut self, id: TaskId) {
        self.tasks.insert(id);
    }

    /// False: the instance has an entry in this group already.
    pub(super) fn touch_instance(&mut self, uid: Uid) -> bool {
        self.instances.insert(uid)
    }

    pub(super) fn has_instance(&self, uid: Uid) -> bool {
        self.instances.contains(&uid)
    }

    pub(super) fn has_queue(&self, queue: &QueueId) -> bool {
        self.queues.contains(queue)
    }

    pub(super) fn touch_queue(&mut self, queue: QueueId) {
        self.queues.insert(queue);
    }

    /// How many queues have an entry in this group.
    pub(super) fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Whether a part may join this state's delta.
    pub(super) fn takes_parts(&self, state: &StateId) -> bool {
        !self.deleted.contains(state)
            && self
                .deltas
                .get(state)
                .is_none_or(|delta| delta.exclusive.is_none())
    }

    /// Whether the state is untouched, so that an entry may expect its last revision.
    pub(super) fn is_untouched(&self, state: &StateId) -> bool {
        !self.rewritten.contains(state) && !self.deltas.contains_key(state)
    }

    pub(super) fn rewrite(&mut self, state: StateId, deleted: bool) {
        if deleted {
            self.deleted.insert(state.clone());
        }
        self.rewritten.insert(state);
    }

    pub(super) fn delta(&mut self, state: &StateId) -> &mut DeltaPlan {
        if !self.deltas.contains_key(state) {
            self.deltas.insert(state.clone(), DeltaPlan::default());
        }
        self.deltas
            .get_mut(state)
            .expect("it was inserted where it was missing")
    }

    /// Adds a part to a state's delta.
    pub(super) fn push_part(&mut self, state: &StateId, part: Part, settle: PartSettle) {
        let bytes = weight(&part.ops);
        self.add_bytes(bytes);
        let delta = self.delta(state);
        delta.ops += part.ops.len();
        delta.bytes += bytes;
        delta.parts.push(part);
        delta.settles.push(settle);
    }

    pub(super) fn delta_of(&self, state: &StateId) -> Option<&DeltaPlan> {
        self.deltas.get(state)
    }

    /// Closes the group: the error groups that it counts in become drafts, behind all others, and
    /// then the deltas, each behind its large values.
    pub(super) fn seal(&mut self, now: &Now, uid: &mut dyn FnMut() -> Uid) -> Vec<Draft> {
        for (draft, settle) in self.errors.seal() {
            self.push(draft, settle);
        }
        for (state, mut plan) in std::mem::take(&mut self.deltas) {
            for op in plan.parts.iter_mut().flat_map(|part| &mut part.ops) {
                if let Some(Op::PutLarge(put)) = &mut op.op {
                    let draft = Draft {
                        entry: Entry::StateValue(put.take_entry(state.as_str(), uid())),
                        expect: None,
                        supersedes: Vec::new(),
                    };
                    self.push(draft, Settle::Nothing);
                }
            }
            let delta = StateDelta {
                state: state.to_string(),
                // Taken only where the state does not stand; cheaper to send than to look up.
                create_uid: uid().to_bytes(),
                time_us: now.wall_us,
                parts: plan.parts,
                settings: None,
            };
            let draft = Draft {
                entry: Entry::StateDelta(delta),
                expect: plan.exclusive,
                supersedes: Vec::new(),
            };
            self.push(draft, Settle::Parts(plan.settles));
        }
        std::mem::take(&mut self.drafts)
    }

    pub(super) fn into_settles(self) -> Vec<Settle> {
        self.settles
    }
}
