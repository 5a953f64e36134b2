//! The client's pure halves, for the simulation: the state machines behind a StateQueue and a watch
//! without the tasks that drive them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost_types::Timestamp;
use tonic::Status;
use uuid::Uuid;

use super::{
    error::Error,
    push_core::PushCore,
    update::Update,
    watch::Framed,
    watch_core::{View, WatchCore},
    watch_state::{StateView, States},
    watch_task::Tasks,
};
use crate::proto::v1::{
    Position, PushOpened, PushStateRequest, PushWindow, Task, UpdateBatches, WatchStateResponse,
    WatchTasksResponse, push_state_request,
};

/// The reason that a refusal names; empty where the transport broke.
pub(crate) fn reason(status: &Status) -> String {
    Error::from_status("simulation", status).reason().to_owned()
}

/// The server's memory of a writer and the writer's own do not meet.
#[derive(Debug)]
pub(crate) struct Lost;

/// A writer.
#[derive(Debug)]
pub(crate) struct PushSide(PushCore);

impl PushSide {
    pub(crate) fn new(writer: Uuid) -> Self {
        Self(PushCore::new(writer, 1 << 20))
    }

    pub(crate) fn writer(&self) -> Uuid {
        self.0.writer()
    }

    pub(crate) fn last_sequence(&self) -> i64 {
        self.0.last_sequence()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.0.is_settled()
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.0.is_drained()
    }

    pub(crate) fn folded(&self) -> u64 {
        self.0.counters().folded
    }

    pub(crate) fn resent(&self) -> u64 {
        self.0.counters().resent
    }

    pub(crate) fn flush(&mut self, updates: Vec<Update>) {
        self.0.flush(updates, Timestamp::default());
    }

    /// Numbers everything that was flushed; the number is the writer's mark.
    pub(crate) fn seal(&mut self) -> i64 {
        self.0.seal(Timestamp::default());
        self.last_sequence()
    }

    /// What is to be sent now.
    pub(crate) fn next_frame(&mut self) -> Option<PushStateRequest> {
        let batches = self.0.next_frame(Timestamp::default())?;
        let frame: push_state_request::Frame = UpdateBatches { batches }.into();
        Some(PushStateRequest { frame: Some(frame) })
    }

    pub(crate) fn on_opened(&mut self, opened: &PushOpened) -> Result<(), Lost> {
        self.0.on_opened(opened).map_err(|_| Lost)
    }

    pub(crate) fn on_ack(&mut self, sequence: i64, window: Option<&PushWindow>) {
        self.0.on_ack(sequence, window);
    }

    pub(crate) fn on_rewind(&mut self, expected: i64) -> Result<(), Lost> {
        self.0.on_rewind(expected).map_err(|_| Lost)
    }

    pub(crate) fn on_disconnect(&mut self) {
        self.0.on_disconnect();
    }

    pub(crate) fn on_drain(&mut self) {
        self.0.on_drain();
    }
}

/// A watcher of states.
#[derive(Debug)]
pub(crate) struct StateSide {
    core: WatchCore<StateView>,
    states: States,
}

/// A watcher of tasks.
#[derive(Debug)]
pub(crate) struct TaskSide {
    core: WatchCore<BTreeMap<String, Task>>,
    tasks: Tasks,
}

fn core<V: View>(from: Option<&Position>) -> WatchCore<V> {
    from.map_or_else(WatchCore::default, WatchCore::from_position)
}

fn take<K: Framed>(
    core: &mut WatchCore<K::View>,
    kind: &K,
    response: K::Response,
) -> Result<(), String> {
    let frame = kind.frame(response).ok_or("a frame cannot be read")?;
    let step = core.on_frame(frame).map_err(|broken| broken.0)?;
    drop(step);
    Ok(())
}

impl StateSide {
    pub(crate) fn new(names: &[String], from: Option<&Position>) -> Self {
        let names = names.iter().map(|name| Arc::from(name.as_str()));
        Self {
            core: core(from),
            states: States::of(names.collect()),
        }
    }

    pub(crate) fn on_frame(&mut self, response: WatchStateResponse) -> Result<(), String> {
        take(&mut self.core, &self.states, response)
    }

    pub(crate) fn on_disconnect(&mut self) {
        self.core.on_disconnect();
    }

    pub(crate) fn token(&self) -> Bytes {
        self.core.token()
    }

    pub(crate) fn revision(&self) -> Option<i64> {
        self.core.revision()
    }

    /// What a program sees: each key as STATE/KEY, with its revision.
    pub(crate) fn view(&self) -> BTreeMap<String, i64> {
        let states = self.core.view().iter();
        states
            .flat_map(|(state, keys)| {
                let state = super::short_name(state);
                keys.iter()
                    .map(move |(key, entry)| (format!("{state}/{key}"), entry.mod_revision))
            })
            .collect()
    }
}

impl TaskSide {
    pub(crate) fn new(from: Option<&Position>) -> Self {
        Self {
            core: core(from),
            tasks: Tasks::all(),
        }
    }

    pub(crate) fn on_frame(&mut self, response: WatchTasksResponse) -> Result<(), String> {
        take(&mut self.core, &self.tasks, response)
    }

    pub(crate) fn on_disconnect(&mut self) {
        self.core.on_disconnect();
    }

    pub(crate) fn token(&self) -> Bytes {
        self.core.token()
    }

    pub(crate) fn revision(&self) -> Option<i64> {
        self.core.revision()
    }

    pub(crate) fn view(&self) -> BTreeMap<String, i64> {
        let tasks = self.core.view().iter();
        tasks
            .map(|(name, task)| (super::short_name(name).to_owned(), task.revision))
            .collect()
    }
}
