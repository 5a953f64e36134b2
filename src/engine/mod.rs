//! The engine: what runs a namespace.
//!
//! Per namespace there is one monitor task that owns all change: it takes commands and pushed
//! batches, plans a group of entries, appends it to the journal, folds what the journal returns
//! into the [`Mirror`], answers, and wakes watches. Everything else only reads the mirror.
//!
//! - [`Engine`]: all namespaces of a store; start here
//! - [`Namespace`]: the handle to one: what `service/` calls
//! - `monitor`: the loop; `core`: what it does, without async; `recovery`: how it begins anew after a panic
//! - [`mirror`]: the folded view; [`tasks`]: its tasks, packed
//! - [`errors`]: what is kept of error groups
//! - [`queues`]: what is kept of queues; `ready`: whose turn it is in them
//! - `payloads`: inputs and outputs, read back from the journal
//! - `values`: large values, which the mirror only refers to
//! - [`intake`]: pushed batches on their way to the monitor
//! - [`watch`]: streams that replicate a part of the mirror
//! - [`token`]: what clients hold

pub mod clock;
pub mod command;
mod core;
pub mod errors;
pub mod intake;
pub mod mirror;
mod monitor;
mod namespace;
mod payloads;
mod presence;
pub mod queues;
pub mod rate;
mod reading;
mod ready;
mod recovery;
mod store;
pub mod tasks;
mod timers;
pub mod token;
mod values;
mod wakers;
pub mod watch;

use std::{sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use command::Command;
use intake::Intake;
use mirror::Mirror;
pub use namespace::{Namespace, Page, QueueView, TaskFilter};
pub use payloads::Aside;
use payloads::Payloads;
use presence::Presence;
use ready::Ready;
pub use store::{DEFAULT_KEEP_ENDED, Engine, EngineOptions, StartError};
use values::Values;
use wakers::Wakers;

use crate::{
    domain::{Epoch, NamespaceId},
    telemetry::Probe,
};

/// Commands that may wait for a monitor; callers wait for room beyond it.
const COMMAND_QUEUE: usize = 1_024;

/// What a namespace's monitor, its handles and its watches share.
#[derive(Debug)]
pub(crate) struct Shared {
    id: NamespaceId,
    epoch: Epoch,
    /// Written by the monitor alone, briefly, when a group is folded.
    mirror: RwLock<Mirror>,
    /// Written by the monitor alone. Whoever holds it waits for nothing.
    ready: Mutex<Ready>,
    intake: Intake,
    wakers: Wakers,
    presence: Presence,
    values: Values,
    payloads: Payloads,
    /// Ended tasks that are kept; 0: all, until their retention is over.
    keep_ended: usize,
    /// What replaying the journal took.
    replay: Duration,
    /// Who is told of what happens.
    probe: Probe,
    commands: mpsc::Sender<Command>,
    /// The server is stopping: streams end, no work is handed out.
    draining: CancellationToken,
    /// The monitor has ended for good.
    ended: CancellationToken,
    /// Where a test makes the monitor panic.
    #[cfg(test)]
    trap: recovery::Trap,
}

/// A namespace's shared parts.
type SharedRef = Arc<Shared>;

#[cfg(test)]
mod tests;
