//! A state, folded from its entries in the journal: the same code live, at start and on every
//! replica, so it decides from the entries alone.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use crate::domain::{
    Reason,
    id::{Revision, StateId, Uid},
    table::RevisionTable,
};

use super::{
    arithmetic::{self, Reduced},
    delta::{Fence, KeyOp, Op, Part, RejectedOp, Settings, StateDelta, Writer},
    large::{LargeRef, LargeValue, Stored, Unclaimed},
};

/// A key of a state, shared by everything that holds it.
pub type Key = Arc<str>;

/// The keys of a state, and what watches need to know of them.
pub type KeyTable = RevisionTable<Key, StateValue>;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateValue {
    /// Its value, or where that is.
    pub value: Stored,
    /// Who wrote it: a task name or a caller.
    pub source: Arc<str>,
}

/// How far a writer's batches are part of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterState {
    /// The highest epoch seen.
    pub epoch: u64,
    /// The last batch applied.
    pub sequence: u64,
    /// Journal time of its last part.
    pub time_us: i64,
    /// The task under whose lease it wrote; the nil uid where there was none.
    pub task: Uid,
    /// Its last batch was its final one.
    pub done: bool,
}

/// What a state knows of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskMention {
    /// The highest lease seen; 0: none.
    pub fence: u64,
    /// The contribution of the finished task is in.
    pub contributed: bool,
}

/// What became of a part. Acks, rejections and positions come from here, never from the append's
/// success.
#[derive(Clone, Debug, PartialEq)]
pub enum PartResult {
    /// It is part of the state now, except for these keys: those refused on arrival and those the
    /// fold refused, by (sequence, key).
    Applied {
        /// Refused keys.
        rejected: Vec<RejectedOp>,
    },
    /// All its batches are part of the state already.
    Duplicate,
    /// Its first batch does not follow the writer's position; skipped whole. That includes a part
    /// of which some batches were applied before: what it folded cannot be taken apart.
    Gap {
        /// The writer's last applied batch.
        position: u64,
    },
    /// A higher lease of its task has written or was announced; skipped whole.
    Fenced,
    /// The writer has moved to another server; skipped whole.
    OldEpoch,
    /// The task's contribution is part of the state already.
    AlreadyContributed,
}

/// What became of a delta.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaResult {
    /// For each part, in order.
    pub parts: Vec<PartResult>,
    /// Whether anybody watching sees a difference: a key was set or deleted.
    pub changed: bool,
}

/// A state.
///
/// It exists here also before its first key and after its deletion ([`State::alive`] tells):
/// fences, writer positions and tombstones outlive an incarnation.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub(super) id: StateId,
    pub(super) uid: Uid,
    pub(super) alive: bool,
    pub(super) create_us: i64,
    pub(super) update_us: i64,
    pub(super) revision: Revision,
    pub(super) settings: Settings,
    pub(super) table: KeyTable,
    pub(super) size_bytes: usize,
    /// Of those, bytes of values that are entries of their own.
    pub(super) large_bytes: usize,
    pub(super) unclaimed: Unclaimed,
    pub(super) horizon: Revision,
    pub(super) writers: HashMap<Uid, WriterState>,
    pub(super) mentions: HashMap<Uid, TaskMention>,
}

impl State {
    /// A state nobody has written to yet.
    #[must_use]
    pub fn new(id: StateId) -> Self {
        Self {
            id,
            uid: Uid::default(),
            alive: false,
            create_us: 0,
            update_us: 0,
            revision: Revision::ZERO,
            settings: Settings::default(),
            table: KeyTable::new(),
            size_bytes: 0,
            large_bytes: 0,
            unclaimed: Unclaimed::default(),
            horizon: Revision::ZERO,
            writers: HashMap::new(),
            mentions: HashMap::new(),
        }
    }

    /// Folds a large value: notes where it stands, for the delta that follows.
    pub fn apply_value(&mut self, revision: Revision, value: &LargeValue) {
        self.unclaimed.note(uid(&value.uid), revision);
    }

    /// Folds one delta. All keys it changes share its revision.
    ///
    /// Each part is judged alone, after the parts before it, and taken or skipped whole. The first
    /// key that changes begins an incarnation where none stands; fences, positions and rejections
    /// alone do not, and they leave the state's revision as it is, so that a compare-and-set by a
    /// client fails only for what the client could have seen. Settings do begin one, without a key.
    pub fn apply_delta(&mut self, revision: Revision, delta: &StateDelta) -> DeltaResult {
        let mut changed = false;
        let mut parts = Vec::with_capacity(delta.parts.len());
        for part in &delta.parts {
            parts.push(self.apply_part(revision, delta.time_us, part, &mut changed));
        }
        let named = delta.parts.iter().flat_map(|part| &part.ops);
        self.unclaimed.settle(named);
        let begins = !self.alive && (changed || delta.settings.is_some());
        if begins {
            self.begin(delta);
        }
        if changed || begins {
            self.revision = revision;
            self.update_us = delta.time_us;
        }
        self.settings = delta.settings.unwrap_or(self.settings);
        DeltaResult { parts, changed }
    }

    /// A new incarnation. Tombstones and horizon stay, so that a watch that last saw the previous
    /// incarnation learns which of its keys are gone. Writer positions stay, because a batch that
    /// was acknowledged must not be applied again when its client resends it after the deletion.
    fn begin(&mut self, delta: &StateDelta) {
        self.alive = true;
        self.uid = Uid::from_bytes(&delta.create_uid).unwrap_or_default();
        self.create_us = delta.time_us;
        self.settings = Settings::default();
    }

    fn apply_part(
        &mut self,
        revision: Revision,
        time_us: i64,
        part: &Part,
        changed: &mut bool,
    ) -> PartResult {
        if let Some(refusal) = self.refuses(part) {
            return refusal;
        }
        self.record(part, time_us);
        if is_empty(part) {
            return PartResult::Applied {
                rejected: Vec::new(),
            };
        }
        let mut rejected = part.rejected.clone();
        let mut source = None;
        for op in &part.ops {
            match self.apply_op(revision, op, &part.source, &mut source) {
                Ok(touched) => *changed |= touched,
                Err(reason) => rejected.push(RejectedOp {
                    sequence: op.sequence,
                    key: op.key.clone(),
                    reason: reason.as_str().to_owned(),
                }),
            }
        }
        // One order whatever was folded before: acks are compared between replicas and in tests.
        rejected.sort_by(|a, b| (a.sequence, &a.key).cmp(&(b.sequence, &b.key)));
        PartResult::Applied { rejected }
    }

    /// Why a part is skipped. Duplicates come first: their batches are in, so they may be
    /// acknowledged, whatever has become of the lease or the epoch since.
    fn refuses(&self, part: &Part) -> Option<PartResult> {
        let known = match &part.writer {
            Some(Writer::Stream(id)) => Some(self.writers.get(&uid(id)).copied()),
            Some(Writer::Contribution(task)) if self.contributed(&uid(task)) => {
                return Some(PartResult::AlreadyContributed);
            }
            Some(Writer::Contribution(_)) | None => None,
        };
        let known = known.map(Option::unwrap_or_default);
        if let Some(known) = known
            && !is_empty(part)
            && part.last_sequence <= known.sequence
        {
            return Some(PartResult::Duplicate);
        }
        if let Some(Fence { task_uid, fence }) = &part.fence
            && *fence < self.fence(&uid(task_uid))
        {
            return Some(PartResult::Fenced);
        }
        let known = known?;
        if part.epoch < known.epoch {
            return Some(PartResult::OldEpoch);
        }
        if !is_empty(part) && part.first_sequence != known.sequence + 1 {
            return Some(PartResult::Gap {
                position: known.sequence,
            });
        }
        None
    }

    /// Remembers whose part was taken: the fence, the epoch, the position, the contribution. A lower
    /// fence or epoch was refused before.
    fn record(&mut self, part: &Part, time_us: i64) {
        if let Some(Fence { task_uid, fence }) = &part.fence {
            self.mentions.entry(uid(task_uid)).or_default().fence = *fence;
        }
        match &part.writer {
            Some(Writer::Stream(id)) => {
                let writer = self.writers.entry(uid(id)).or_default();
                writer.epoch = part.epoch;
                writer.time_us = time_us;
                if let Some(fence) = &part.fence {
                    writer.task = uid(&fence.task_uid);
                }
                if !is_empty(part) {
                    writer.sequence = part.last_sequence;
                    writer.done = part.last;
                }
            }
            Some(Writer::Contribution(task)) => {
                self.mentions.entry(uid(task)).or_default().contributed = true;
            }
            None => {}
        }
    }

    /// Does one operation; says whether the key changed. `max` and `min` that leave the value as
    /// it is are no change: hundreds of workers may call them without waking a watch.
    fn apply_op(
        &mut self,
        revision: Revision,
        op: &KeyOp,
        part_source: &str,
        source: &mut Option<Arc<str>>,
    ) -> Result<bool, Reason> {
        let stored = self.table.stored_key(op.key.as_str());
        let key = stored.map_or_else(|| Key::from(op.key.as_str()), Key::clone);
        let value = match &op.op {
            None => return Ok(false),
            Some(Op::Delete(_)) => {
                let before = self.table.delete(&key, (), revision);
                self.forget_size(&key, before.as_ref());
                return Ok(true);
            }
            // Copied: the bytes are a slice of the message or block they came in, and a small
            // value would keep all of it in memory.
            Some(Op::Put(value)) => Stored::Inline(Bytes::copy_from_slice(value)),
            // Without its entry there is nothing to hold: a delta that a journal repeated alone.
            Some(Op::PutLarge(put)) => {
                let found = self.unclaimed.find(&put.uid).ok_or(Reason::Internal)?;
                Stored::Large(Arc::new(put.at(found)))
            }
            Some(reducing) => {
                let current = match self.table.get(&key).map(|held| &held.value) {
                    None => None,
                    Some(Stored::Inline(value)) => Some(&value[..]),
                    // Far longer than any number.
                    Some(Stored::Large(_)) => return Err(Reason::TypeMismatch),
                };
                match arithmetic::reduce(reducing, current)? {
                    Reduced::Unchanged => return Ok(false),
                    Reduced::Set(value) => Stored::Inline(value),
                }
            }
        };
        let source = source.get_or_insert_with(|| match self.table.get(&key) {
            Some(held) if &*held.source == part_source => held.source.clone(),
            _ => part_source.into(),
        });
        let source = source.clone();
        self.set(key, StateValue { value, source }, revision);
        Ok(true)
    }

    /// Sets a key and keeps the size.
    pub(super) fn set(&mut self, key: Key, value: StateValue, revision: Revision) {
        self.size_bytes += key.len() + value.value.size();
        self.large_bytes += value.value.large_size();
        let before = self.table.put(key.clone(), value, revision);
        self.forget_size(&key, before.as_ref());
    }

    pub(super) fn forget_size(&mut self, key: &Key, before: Option<&StateValue>) {
        if let Some(before) = before {
            self.size_bytes -= key.len() + before.value.size();
            self.large_bytes -= before.value.large_size();
        }
    }
}

/// What the engine asks.
impl State {
    /// Last segment of its name.
    #[must_use]
    pub fn id(&self) -> &StateId {
        &self.id
    }

    /// The incarnation, the last one where none stands.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// Whether it exists for clients.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.alive
    }

    /// When the incarnation began.
    #[must_use]
    pub fn create_us(&self) -> i64 {
        self.create_us
    }

    /// When a client could last see it change.
    #[must_use]
    pub fn update_us(&self) -> i64 {
        self.update_us
    }

    /// Revision of the last change a client could see.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Deletions at or before it may be forgotten: a watch cannot resume from before it.
    #[must_use]
    pub fn horizon(&self) -> Revision {
        self.horizon
    }

    /// When it was last written to, or its settings changed: from then its retention counts. What
    /// changed no key counts where its writer is known.
    #[must_use]
    pub fn touched_us(&self) -> i64 {
        let written = self.writers.values().map(|writer| writer.time_us).max();
        let touched = self.update_us.max(self.settings.set_us);
        touched.max(written.unwrap_or(touched))
    }

    /// Its keys.
    #[must_use]
    pub fn table(&self) -> &KeyTable {
        &self.table
    }

    /// How many keys it holds.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.table.live_len()
    }

    /// Bytes of its keys and values, wherever they are.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Bytes of its values that are entries of their own: not held here.
    #[must_use]
    pub fn large_bytes(&self) -> usize {
        self.large_bytes
    }

    /// Revisions of the value entries its keys refer to, in no particular order.
    pub fn large_values(&self) -> impl Iterator<Item = Revision> {
        let large = |value: &StateValue| value.value.large().map(LargeRef::at);
        self.table
            .iter()
            .filter_map(move |(_, _, value)| large(value))
    }

    /// Whether there are value entries that no delta has named.
    #[must_use]
    pub fn has_unclaimed(&self) -> bool {
        !self.unclaimed.is_empty()
    }

    /// Where a writer stands; `None`: never seen or forgotten.
    #[must_use]
    pub fn writer(&self, writer: &Uid) -> Option<WriterState> {
        self.writers.get(writer).copied()
    }

    /// Every writer known, in no particular order.
    pub fn writers(&self) -> impl Iterator<Item = (Uid, WriterState)> {
        self.writers.iter().map(|(uid, writer)| (*uid, *writer))
    }

    /// The highest lease of a task that has written or was announced; 0: none.
    #[must_use]
    pub fn fence(&self, task: &Uid) -> u64 {
        self.mentions.get(task).map_or(0, |mention| mention.fence)
    }

    /// Whether the task's contribution is part of the state.
    #[must_use]
    pub fn contributed(&self, task: &Uid) -> bool {
        self.mentions
            .get(task)
            .is_some_and(|mention| mention.contributed)
    }

    /// Every task mentioned, in no particular order.
    pub fn mentions(&self) -> impl Iterator<Item = (Uid, TaskMention)> {
        self.mentions.iter().map(|(uid, mention)| (*uid, *mention))
    }
}

/// A part without batches: it announces a fence or an epoch. Only streams number their batches.
fn is_empty(part: &Part) -> bool {
    match part.writer {
        Some(Writer::Stream(_)) => part.last_sequence < part.first_sequence,
        Some(Writer::Contribution(_)) => false,
        None => part.ops.is_empty() && part.rejected.is_empty(),
    }
}

fn uid(bytes: &[u8]) -> Uid {
    Uid::from_bytes(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests;
