//! Every size and count a client can meet, in one place; `GetServerInfo` tells them.

use std::time::Duration;

/// One segment of a resource name, a queue, a task type or a worker id.
pub const MAX_ID_BYTES: usize = 128;
/// A key of a state.
pub const MAX_KEY_BYTES: usize = 256;
/// Keys a state may hold.
pub const MAX_KEYS_PER_STATE: usize = 10_000;
/// Keys and values of one state together.
pub const MAX_STATE_BYTES: usize = 64 << 20;
/// One update batch, encoded.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// One frame of a push or a watch, encoded.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// What a value's key, operation and batch may cost beside the value itself.
pub const VALUE_ENVELOPE_BYTES: usize = 1 << 10;
/// One value, encoded: with its envelope it fits a batch.
pub const MAX_VALUE_BYTES: usize = MAX_BATCH_BYTES - VALUE_ENVELOPE_BYTES;
/// A larger value is kept out of line: an entry of its own in the journal, a stub in watches
/// unless they ask for it.
pub const MAX_INLINE_VALUE_BYTES: usize = 64 << 10;
/// Task input or output data.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// One message in either direction, decoded.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Queues of a namespace that may have settings of their own.
pub const MAX_QUEUES_WITH_SETTINGS: usize = 10_000;
/// Nested lists and maps in a value. A map costs three nested messages and a watch puts three
/// around the value, so that this is what decoders with the usual limit of 100 can read.
pub const MAX_VALUE_DEPTH: usize = 32;
/// Labels of a task.
pub const MAX_LABELS: usize = 64;
/// Tasks in one `BatchCreateTasks`, outcomes in one `FinishTasks`, leases in one `LeaseTasks`.
pub const MAX_ITEMS_PER_CALL: usize = 1_000;
/// States one watch may name.
pub const MAX_STATES_PER_WATCH: usize = 64;
/// Task names in one filter.
pub const MAX_FILTER_NAMES: usize = 256;
/// States one finished task may contribute to.
pub const MAX_CONTRIBUTIONS: usize = 16;
/// Writer marks in one outcome: those of 64 states whose queues have two writers each.
pub const MAX_WRITER_MARKS: usize = 128;
/// Error groups of a namespace; what would begin another is counted in one more.
pub const MAX_ERROR_GROUPS: usize = 10_000;
/// Failures in one `ReportFailures`.
pub const MAX_REPORTS_PER_CALL: usize = 100;
/// Attempts kept with a task, newest last.
pub const MAX_ATTEMPTS_KEPT: usize = 10;
/// Causes kept below a failure.
pub const MAX_CAUSES: usize = 8;
/// A failure's stack trace; longer ones are cut and say so.
pub const MAX_STACK_BYTES: usize = 64 << 10;
/// A failure's message; longer ones are cut and say so.
pub const MAX_FAILURE_MESSAGE_BYTES: usize = 16 << 10;
/// How long deleted keys, states and tasks stay known, so that watches can resume over them.
pub const HISTORY_WINDOW: Duration = Duration::from_secs(600);
/// Deleted keys one state remembers; beyond it the oldest are forgotten before their time.
pub const MAX_TOMBSTONES: usize = 10_000;
/// A writer without an open stream or lease is forgotten after this long.
pub const WRITER_RETENTION: Duration = Duration::from_secs(3_600);
/// The longest pause between two merges of a state: half of what `StateQueue::exit` waits for its
/// acknowledgements, and a finishing task for its batches.
pub const MAX_MERGE_INTERVAL: Duration = Duration::from_secs(5);
/// A writer that is done is forgotten after this long: time enough for its client to hear of it.
pub const DONE_WRITER_RETENTION: Duration = Duration::from_secs(300);
/// How long a finishing task waits for the batches its outcome names.
pub const FLUSH_DEADLINE: Duration = Duration::from_secs(10);
/// How long a running task that was asked to stop may go on being renewed, unless its policy says
/// otherwise: longer than the worker library waits for a handler before it drops it.
pub const DEFAULT_CANCEL_GRACE: Duration = Duration::from_secs(60);
/// Page size when none is asked for, and the largest given.
pub const DEFAULT_PAGE_SIZE: usize = 50;
/// The largest page.
pub const MAX_PAGE_SIZE: usize = 1_000;
