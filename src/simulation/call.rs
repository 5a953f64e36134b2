//! Unary calls, as the server serves them.

use bytes::Bytes;
use tonic::{Request as Wrapped, Status};

use super::runs::Process;
use crate::{proto::v1 as pb, service::bare::Services};

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "few, and not for long")]
pub(super) enum Request {
    Update(pb::UpdateStateRequest),
    Delete(pb::DeleteStateRequest),
    Get(pb::GetStateRequest),
    Create(pb::CreateTaskRequest),
    Cancel(pb::CancelTaskRequest),
    List(pb::ListTasksRequest),
    Lease(pb::LeaseTasksRequest),
    Renew(pb::RenewLeasesRequest),
    Finish(pb::FinishTasksRequest),
    Release(pb::ReleaseLeasesRequest),
    SetQueue(pb::UpdateQueueRequest),
}

#[derive(Debug)]
pub(super) enum Reply {
    Update(pb::UpdateStateResponse),
    Delete,
    Get(pb::GetStateResponse),
    Create(pb::CreateTaskResponse),
    Cancel(pb::CancelTaskResponse),
    List(pb::ListTasksResponse),
    Lease(pb::LeaseTasksResponse),
    Renew(pb::RenewLeasesResponse),
    Finish(pb::FinishTasksResponse),
    Release,
    SetQueue(pb::UpdateQueueResponse),
}

impl Request {
    /// Whether it may be sent again where nobody answered: it then has the effect of one.
    pub(super) fn may_repeat(&self) -> bool {
        match self {
            Self::Update(update) => !update.request_id.is_empty(),
            Self::Lease(_) => false,
            _ => true,
        }
    }

    pub(super) async fn serve(self, services: Services) -> Result<Reply, Status> {
        let Services {
            tasks,
            states,
            workers,
            queues,
        } = services;
        Ok(match self {
            Self::Update(r) => {
                Reply::Update(states.update_state(Wrapped::new(r)).await?.into_inner())
            }
            Self::Delete(r) => {
                states.delete_state(Wrapped::new(r)).await?;
                Reply::Delete
            }
            Self::Get(r) => Reply::Get(states.get_state(Wrapped::new(r)).await?.into_inner()),
            Self::Create(r) => {
                Reply::Create(tasks.create_task(Wrapped::new(r)).await?.into_inner())
            }
            Self::Cancel(r) => {
                Reply::Cancel(tasks.cancel_task(Wrapped::new(r)).await?.into_inner())
            }
            Self::List(r) => Reply::List(tasks.list_tasks(Wrapped::new(r)).await?.into_inner()),
            Self::Lease(r) => {
                Reply::Lease(workers.lease_tasks(Wrapped::new(r)).await?.into_inner())
            }
            Self::Renew(r) => {
                Reply::Renew(workers.renew_leases(Wrapped::new(r)).await?.into_inner())
            }
            Self::Finish(r) => {
                Reply::Finish(workers.finish_tasks(Wrapped::new(r)).await?.into_inner())
            }
            Self::Release(r) => {
                workers.release_leases(Wrapped::new(r)).await?;
                Reply::Release
            }
            Self::SetQueue(r) => {
                Reply::SetQueue(queues.update_queue(Wrapped::new(r)).await?.into_inner())
            }
        })
    }
}

/// What to do with the answer.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// Nothing but to remember the position.
    Forget,
    /// A request that counts 1.
    Count,
    /// Begin a watch where the answer was read.
    WatchFrom,
    Submit(usize),
    Lease(Process),
    /// With when it was first sent.
    Renew(usize, u64),
    Finish(usize),
    /// What a process gave back as it ended.
    Release(Vec<usize>),
    Cancel,
    /// The last word before the end.
    Marker,
    /// The final reading.
    Final,
}

/// A call on its way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) purpose: Purpose,
    pub(super) answered: bool,
    pub(super) tries: u32,
}

/// `namespaces/default/states/STATE`.
pub(super) fn state_name(state: &str) -> String {
    format!("{PARENT}/states/{state}")
}

pub(super) const PARENT: &str = "namespaces/default";

/// Reads a state.
pub(super) fn get(state: &str, min_position: Bytes) -> Request {
    Request::Get(pb::GetStateRequest {
        name: state_name(state),
        min_position,
        ..Default::default()
    })
}
