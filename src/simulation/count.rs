//! Counters: every kind of fault and of frame there is, each of which must have been met.

use std::fmt::Write;

/// Everything that is counted, by group, in the order of the table.
pub(super) const KINDS: [&str; 72] = [
    "watch: opened with a snapshot",
    "watch: opened resumed",
    "watch: opened live",
    "watch: snapshot",
    "watch: snapshot in parts",
    "watch: synced",
    "watch: delta",
    "watch: delta in parts",
    "watch: deletion",
    "watch: large value as a stub",
    "watch: bookmark",
    "watch: reset, compacted",
    "watch: reset, epoch changed",
    "watch: reset, filter changed",
    "watch: closing, draining",
    "watch: closing, max age",
    "watch: refused, compacted",
    "push: opened",
    "push: ack",
    "push: rejected key",
    "push: rewind",
    "push: cancel requested",
    "push: lease lost",
    "push: reconnect",
    "push: taken over",
    "push: writer forgotten after a restore",
    "push: flushes folded",
    "push: batches sent again",
    "call: answered",
    "call: refused",
    "call: request lost",
    "call: answer lost",
    "call: sent twice",
    "call: request id sent again",
    "call: position of another epoch",
    "task: leased",
    "task: succeeded",
    "task: failed and retried",
    "task: cancelled",
    "task: lease ran out",
    "task: given back",
    "task: outcome refused",
    "task: told to stop by the stream",
    "task: told of a loss by the stream",
    "task: timed out",
    "task: suspect",
    "task: trusted again",
    "task: failure counted in an error group",
    "queue: settings changed",
    "queue: paused with tasks that run",
    "queue: filled to its limit",
    "queue: filled to the limit of a key",
    "fault: connection cut",
    "fault: half-open at the server",
    "fault: half-open at the client",
    "fault: frames stalled",
    "fault: frame lost",
    "fault: frame sent twice",
    "fault: acknowledgement lost",
    "fault: stream overtaken by the next",
    "fault: slow reader",
    "fault: journal refused",
    "fault: journal outcome unknown",
    "fault: kill",
    "fault: worker killed",
    "fault: restart in order",
    "fault: epoch changed, nothing lost",
    "fault: epoch changed, end lost",
    "case: compaction on top of a delete",
    "case: resumed over a deletion",
    "case: stale token",
    "case: snapshot compared with its deltas",
];

/// How often each was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counts([u64; KINDS.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; KINDS.len()])
    }
}

impl Counts {
    #[track_caller]
    pub(super) fn add(&mut self, kind: &str, count: u64) {
        let index = KINDS.iter().position(|known| *known == kind);
        self.0[index.unwrap_or_else(|| panic!("{kind:?} is not among the kinds"))] += count;
    }

    pub(super) fn get(&self, kind: &str) -> u64 {
        let index = KINDS.iter().position(|known| *known == kind);
        self.0[index.unwrap_or_else(|| panic!("{kind:?} is not among the kinds"))]
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    /// What was never met.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let pairs = KINDS.into_iter().zip(self.0);
        pairs
            .filter(|(_, count)| *count == 0)
            .map(|(kind, _)| kind)
            .collect()
    }

    /// One line each.
    pub(super) fn table(&self) -> String {
        let width = KINDS.iter().map(|kind| kind.len()).max().unwrap_or(0);
        let mut table = String::new();
        for (kind, count) in KINDS.into_iter().zip(self.0) {
            let _ = writeln!(table, "  {kind:width$}  {count:>10}");
        }
        table
    }
}
