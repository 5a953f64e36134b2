//! What was committed, folded a second time: slowly, simply, and without the engine's code.
//!
//! The copy of the journal that [`super::disk`] keeps has every entry, also those that compaction
//! has deleted since. So a snapshot can be held against the deltas it replaced.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use super::{disk::Log, history::Versions};
use crate::{
    domain::{
        Entry, Epoch, Revision,
        state::{Op, Part, StateDelta, StateSnapshot, Writer},
        task::Task,
    },
    proto::v1::{Value, value::Kind},
};

/// What a watcher can tell of a value: a whole number as it is, anything else by its content, and
/// how large it is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) number: i64,
    pub(super) bytes: usize,
}

/// Reads an encoded value.
pub(super) fn seen(value: &[u8]) -> Seen {
    let number = match number(value) {
        Some(number) => number,
        None => value.iter().fold(17_i64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(i64::from(*byte))
        }),
    };
    Seen {
        number,
        bytes: value.len(),
    }
}

fn number(value: &[u8]) -> Option<i64> {
    // Whatever is larger is no number: not worth decoding.
    if value.len() > 16 {
        return None;
    }
    match Value::decode(value).ok()?.kind? {
        Kind::Integer(number) => Some(number),
        _ => None,
    }
}

fn encoded(number: i64) -> Bytes {
    let kind = Some(Kind::Integer(number));
    Value { kind }.encode_to_vec().into()
}

/// All versions of all states' keys (as STATE/KEY) and of all tasks.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) states: Versions<Seen>,
    pub(super) tasks: Versions<Seen>,
    /// Snapshots that were held against the deltas they replaced.
    pub(super) snapshots_compared: u64,
    /// Parts that brought nothing new, or came too late.
    pub(super) duplicate_parts: u64,
    pub(super) fenced_parts: u64,
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<String, (Bytes, u64)>,
    writers: BTreeMap<Bytes, u64>,
    fences: BTreeMap<Bytes, u64>,
    contributed: BTreeSet<Bytes>,
}

impl Truth {
    fn task(&mut self, epoch: &str, revision: Revision, task: &Task) {
        let attempt = task.attempts.last().map_or(0, |last| last.number);
        let attempt = i32::try_from(attempt).expect("a simulation is short");
        let value = task_seen(task.status() as i32, attempt, !task.flush_incomplete);
        self.tasks.put(epoch, &task.id, wire(revision), Some(value));
    }
}

/// Folds a log. The error: a snapshot that is not what it replaced.
pub(super) fn fold(log: &Log) -> Result<Truth, String> {
    let mut truth = Truth::default();
    let mut states: BTreeMap<(Epoch, String), State> = BTreeMap::new();
    for ((epoch, revision), entry) in log {
        let name = epoch.to_string();
        match entry {
            Entry::StateDelta(delta) => {
                let state = states.entry((*epoch, delta.state.clone())).or_default();
                truth.delta(&name, *revision, delta, state);
            }
            Entry::StateSnapshot(snapshot) => {
                let place = (*epoch, snapshot.state.clone());
                let before = states.remove(&place);
                let state = truth.snapshot(&name, *revision, snapshot, before)?;
                states.insert(place, state);
            }
            Entry::Task(task) => truth.task(&name, *revision, task),
            Entry::NewTask(new) => truth.task(&name, *revision, &new.task),
            Entry::TaskRemoved(removed) => {
                truth.tasks.put(&name, &removed.id, wire(*revision), None);
            }
            // Values of the simulation are small.
            Entry::StateValue(_)
            | Entry::Instance(_)
            | Entry::Horizon(_)
            | Entry::Queue(_)
            | Entry::ErrorGroup(_) => {}
        }
    }
    Ok(truth)
}

/// A task as a watcher sees it.
pub(super) fn task_seen(status: i32, attempt: i32, flushed: bool) -> Seen {
    Seen {
        number: i64::from(status) + 100 * i64::from(attempt),
        bytes: usize::from(flushed),
    }
}

fn wire(revision: Revision) -> i64 {
    i64::try_from(revision.0).expect("a simulation is short")
}

impl Truth {
    fn delta(&mut self, epoch: &str, revision: Revision, delta: &StateDelta, state: &mut State) {
        for part in &delta.parts {
            if !self.is_taken(part, state) {
                continue;
            }
            for op in &part.ops {
                let Some(value) = state.after(&op.key, op.op.as_ref()) else {
                    continue;
                };
                let key = format!("{}/{}", delta.state, op.key);
                let shown = value.as_deref().map(seen);
                self.states.put(epoch, &key, wire(revision), shown);
                match value {
                    Some(value) => state.keys.insert(op.key.clone(), (value, revision.0)),
                    None => state.keys.remove(&op.key),
                };
            }
        }
    }

    /// Whether a part counts: its batches are the writer's next, its lease is no older than one
    /// that wrote already.
    fn is_taken(&mut self, part: &Part, state: &mut State) -> bool {
        let numbered = match &part.writer {
            Some(Writer::Stream(id)) => {
                let position = state.writers.get(id).copied().unwrap_or(0);
                let empty = part.last_sequence < part.first_sequence;
                if !empty && part.first_sequence != position + 1 {
                    self.duplicate_parts += 1;
                    return false;
                }
                (!empty).then(|| id.clone())
            }
            Some(Writer::Contribution(task)) => {
                if !state.contributed.insert(task.clone()) {
                    self.duplicate_parts += 1;
                    return false;
                }
                None
            }
            None => None,
        };
        if let Some(fence) = &part.fence {
            let highest = state.fences.entry(fence.task_uid.clone()).or_default();
            if fence.fence < *highest {
                self.fenced_parts += 1;
                return false;
            }
            *highest = fence.fence;
        }
        if let Some(id) = numbered {
            state.writers.insert(id, part.last_sequence);
        }
        true
    }

    fn snapshot(
        &mut self,
        epoch: &str,
        revision: Revision,
        snapshot: &StateSnapshot,
        before: Option<State>,
    ) -> Result<State, String> {
        let mut state = State::default();
        for entry in &snapshot.entries {
            let held = (entry.value.clone(), entry.mod_revision);
            state.keys.insert(entry.key.clone(), held);
        }
        for writer in &snapshot.writers {
            state
                .writers
                .insert(writer.writer_id.clone(), writer.sequence);
        }
        for mention in &snapshot.mentions {
            state.fences.insert(mention.task_uid.clone(), mention.fence);
            if mention.contributed {
                state.contributed.insert(mention.task_uid.clone());
            }
        }
        let name = &snapshot.state;
        match before {
            // The first of this epoch: the history before it was not kept.
            None => {
                for (key, (value, at)) in &state.keys {
                    let key = format!("{name}/{key}");
                    let at = i64::try_from(*at).expect("a simulation is short");
                    self.states.put(epoch, &key, at, Some(seen(value)));
                }
            }
            Some(before) if snapshot.alive => {
                self.snapshots_compared += 1;
                if before.keys != state.keys {
                    let differs = before
                        .keys
                        .iter()
                        .find(|(key, held)| state.keys.get(*key) != Some(held));
                    return Err(format!(
                        "the snapshot of {name} at revision {revision} is not what it replaced: {differs:?}"
                    ));
                }
                for (writer, position) in &state.writers {
                    if before.writers.get(writer) != Some(position) {
                        return Err(format!(
                            "the snapshot of {name} at revision {revision} moved a writer to {position}"
                        ));
                    }
                }
            }
            Some(before) => {
                if !state.keys.is_empty() || before.writers != state.writers {
                    return Err(format!(
                        "the deletion of {name} at revision {revision} left keys or lost writers"
                    ));
                }
                for key in before.keys.keys() {
                    let key = format!("{name}/{key}");
                    self.states.put(epoch, &key, wire(revision), None);
                }
            }
        }
        Ok(state)
    }
}

impl State {
    /// What a key is after an operation; `None`: it stays as it is.
    #[expect(clippy::option_option, reason = "unchanged, deleted, or a value")]
    fn after(&self, key: &str, op: Option<&Op>) -> Option<Option<Bytes>> {
        let held = self.keys.get(key).map(|held| &held.0);
        let reduced = |operand: &Bytes, with: fn(i64, i64) -> i64| {
            let operand = number(operand)?;
            match held {
                Some(held) => Some(with(number(held)?, operand)),
                None => Some(operand),
            }
        };
        // The larger or smaller of two that is what stands already is no change; a sum is.
        let moved = |number: &i64| held.is_none_or(|held| *held != encoded(*number));
        let set = |number: i64| Some(encoded(number));
        match op? {
            Op::Put(value) => Some(Some(value.clone())),
            Op::PutLarge(put) => unreachable!("values of the simulation are small: {put:?}"),
            Op::Delete(_) => Some(None),
            Op::Add(operand) => reduced(operand, |a, b| a + b).map(set),
            Op::Max(operand) => reduced(operand, i64::max).filter(moved).map(set),
            Op::Min(operand) => reduced(operand, i64::min).filter(moved).map(set),
        }
    }
}
