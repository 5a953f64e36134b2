//! What can happen outside the server.

use tonic::Status;

use super::{
    call::{Reply, Request},
    runs::Process,
};
use crate::proto::v1 as pb;

/// Numbers of things in the world.
pub(super) type ConnId = usize;

/// What a client hears on a stream.
#[derive(Debug)]
pub(super) enum Heard {
    Push(pb::PushStateResponse),
    States(pb::WatchStateResponse),
    Tasks(pb::WatchTasksResponse),
    Leases(pb::WatchLeasesResponse),
    /// The server ended it; none: with OK.
    End(Option<Status>),
}

/// What is opened with a connection.
#[derive(Clone, Debug)]
pub(super) enum Opening {
    Push(pb::PushOpen),
    States(pb::WatchStateRequest),
    Tasks(pb::WatchTasksRequest),
    Leases(pb::WatchLeasesRequest),
}

/// What a call was answered with, and in which life of the server.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) life: u64,
    pub(super) result: Result<Reply, Status>,
}

#[derive(Debug)]
pub(super) enum Event {
    /// The next random step.
    Step,
    /// A writer or watcher opens its next stream.
    ConnectWriter(usize),
    ConnectWatcher(usize),
    /// A worker opens its next stream for news of its leases.
    ConnectWorker(Process),
    /// A stream reaches the server.
    Arrive(ConnId, Opening),
    /// A frame of a push stream reaches the server.
    Frame(ConnId, pb::PushStateRequest),
    /// Something reaches the client.
    Hear(ConnId, Heard),
    /// One side learns that the connection is gone.
    ServerNotices(ConnId),
    ClientNotices(ConnId),
    /// A writer says that it lives.
    Keepalive(ConnId),
    /// A slow reader reads on.
    ReadOn(ConnId),
    /// A call reaches the server; the answer reaches the client; nobody has answered.
    Call(usize, Request),
    Answer(usize, Answer),
    Overdue(usize),
    /// A worker works on an attempt.
    Work(usize),
    /// The server's process has ended by itself (in this life).
    Died(u64),
    /// The server starts.
    Start,
    /// Time passes.
    Nothing,
}
