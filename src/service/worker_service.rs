//! `WorkerService`: work and time for workers.

use std::time::Duration;

use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Context,
    convert::{self, Detail, clamped, duration, instance, items, segment},
    position,
    status::to_item,
    task_service::as_they_stand,
    watch::{self, Frames},
};
use crate::{
    domain::{
        Error, NamespaceId, Reason,
        id::parse_namespace,
        limits::{MAX_ITEMS_PER_CALL, MAX_MESSAGE_BYTES},
        task::Event,
    },
    engine::{
        Namespace,
        command::{Granted, LeaseRequest, LeaseStatus, RenewRequest, TaskOp, TaskOpKind},
        token::LeaseToken,
    },
    proto::v1::{
        self as pb, lease_status::Disposition, outcome_result, worker_service_server::WorkerService,
    },
};

/// The longest a call waits for work.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Leases of one answer may weigh this much; the rest goes back to its queue.
const MAX_LEASES_BYTES: usize = MAX_MESSAGE_BYTES - (64 << 10);

/// See the module.
#[derive(Debug)]
pub(super) struct Workers(pub(super) Context);

#[async_trait]
impl WorkerService for Workers {
    type WatchLeasesStream = Frames<pb::WatchLeasesResponse>;

    async fn lease_tasks(
        &self,
        request: Request<pb::LeaseTasksRequest>,
    ) -> Result<Response<pb::LeaseTasksResponse>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        let asked = lease_request(request)?;
        // A worker may come before the first task.
        let namespace = self.0.namespace(&id).await?;
        let granted = namespace.lease(asked).await?;
        let (leases, too_many) = leases_that_fit(&id, &granted);
        if !too_many.is_empty() {
            // What fails here runs out by itself: nobody has accepted it.
            let _ = namespace.tasks(releases(too_many)).await;
        }
        Ok(Response::new(pb::LeaseTasksResponse { leases }))
    }

    async fn renew_leases(
        &self,
        request: Request<pb::RenewLeasesRequest>,
    ) -> Result<Response<pb::RenewLeasesResponse>, Status> {
        let request = request.into_inner();
        let (worker_id, instance) = instance(request.worker_id, &request.instance_uid)?;
        let tokens = convert::tokens(&request.lease_tokens)?;
        let mut statuses = vec![LeaseStatus::Lost; tokens.len()];
        let groups = by_namespace(tokens, |token| token.namespace.clone());
        for (id, places, tokens) in groups {
            // A namespace that is not here holds no leases.
            let Ok(namespace) = self.0.existing(&id) else {
                continue;
            };
            let renewed = namespace
                .renew(RenewRequest {
                    tokens,
                    worker_id: worker_id.clone(),
                    instance,
                })
                .await?;
            for (place, status) in places.into_iter().zip(renewed) {
                statuses[place] = status;
            }
        }
        Ok(Response::new(pb::RenewLeasesResponse {
            statuses: statuses.into_iter().map(lease_status).collect(),
        }))
    }

    async fn watch_leases(
        &self,
        request: Request<pb::WatchLeasesRequest>,
    ) -> Result<Response<Self::WatchLeasesStream>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        let (_, instance) = instance(request.worker_id, &request.instance_uid)?;
        let permit = self.0.streams.watch()?;
        let namespace = self.0.namespace(&id).await?;
        let watch = namespace.watch_leases(instance);
        Ok(Response::new(watch::leases(watch, permit)))
    }

    async fn finish_tasks(
        &self,
        request: Request<pb::FinishTasksRequest>,
    ) -> Result<Response<pb::FinishTasksResponse>, Status> {
        let request = request.into_inner();
        items("outcomes", request.outcomes.len(), 1)?;
        convert::optional_uuid("request_id", &request.request_id)?;
        let mut results = vec![None; request.outcomes.len()];
        let mut ops = Vec::with_capacity(request.outcomes.len());
        for (place, outcome) in request.outcomes.into_iter().enumerate() {
            match convert::finish(outcome) {
                Ok((id, op)) => ops.push((place, id, op)),
                Err(error) => results[place] = Some(refused(&error)),
            }
        }
        let mut at = None;
        let groups = by_namespace(ops, |(_, id, _)| id.clone());
        let alone = groups.len() == 1;
        for (id, _, ops) in groups {
            let (places, ops): (Vec<_>, Vec<_>) = ops
                .into_iter()
                .map(|(place, _, op)| (place, Ok(op)))
                .unzip();
            let namespace = match self.0.existing(&id) {
                Ok(namespace) => namespace,
                Err(_) => {
                    let error = lease_lost(&id);
                    places
                        .into_iter()
                        .for_each(|place| results[place] = Some(refused(&error)));
                    continue;
                }
            };
            let (rows, head) = as_they_stand(&namespace, namespace.tasks(ops).await?);
            for (place, row) in places.into_iter().zip(rows) {
                results[place] = Some(match row {
                    Ok(row) => {
                        outcome_result::Result::Task(convert::task(&id, &row, Detail::Brief))
                    }
                    Err(error) => refused(&error),
                });
            }
            // A position means something in one namespace only.
            at = alone.then(|| position(&namespace, head));
        }
        let tasks = results.iter_mut().filter_map(|result| match result {
            Some(outcome_result::Result::Task(task)) => Some(task),
            _ => None,
        });
        convert::fit(tasks);
        Ok(Response::new(pb::FinishTasksResponse {
            results: results
                .into_iter()
                .map(|result| pb::OutcomeResult { result })
                .collect(),
            position: at,
        }))
    }

    async fn release_leases(
        &self,
        request: Request<pb::ReleaseLeasesRequest>,
    ) -> Result<Response<pb::ReleaseLeasesResponse>, Status> {
        let tokens = convert::tokens(&request.into_inner().lease_tokens)?;
        for (id, _, tokens) in by_namespace(tokens, |token| token.namespace.clone()) {
            let Ok(namespace) = self.0.existing(&id) else {
                continue;
            };
            release(&namespace, tokens).await?;
        }
        Ok(Response::new(pb::ReleaseLeasesResponse {}))
    }
}

fn lease_request(request: pb::LeaseTasksRequest) -> Result<LeaseRequest, Error> {
    let (worker_id, instance) = instance(request.worker_id, &request.instance_uid)?;
    items("queues", request.queues.len(), 0)?;
    items("task_types", request.task_types.len(), 1)?;
    let queues = match request.queues {
        queues if queues.is_empty() => vec!["default".to_owned()],
        queues => segments("queues", queues)?,
    };
    let max_tasks = match usize::try_from(request.max_tasks) {
        Ok(max) if max <= MAX_ITEMS_PER_CALL => max.max(1),
        _ => {
            let problem = format!(
                "must be 0 to {MAX_ITEMS_PER_CALL}, got {}",
                request.max_tasks
            );
            return Err(Error::field("max_tasks", problem).with("limit", MAX_ITEMS_PER_CALL));
        }
    };
    let wait = clamped(request.wait.as_ref()).unwrap_or_default();
    Ok(LeaseRequest {
        queues,
        task_types: segments("task_types", request.task_types)?,
        max_tasks,
        wait: wait.min(MAX_WAIT),
        worker_id,
        instance,
    })
}

fn segments(field: &'static str, texts: Vec<String>) -> Result<Vec<String>, Error> {
    texts.into_iter().map(|text| segment(field, text)).collect()
}

/// The leases that fit one message, and the tokens of those that do not. One always fits.
fn leases_that_fit(
    namespace: &NamespaceId,
    granted: &[Granted],
) -> (Vec<pb::Lease>, Vec<LeaseToken>) {
    let (mut leases, mut too_many, mut bytes) = (Vec::new(), Vec::new(), 0);
    for granted in granted {
        let Some((token, lease)) = convert::lease_out(namespace, granted) else {
            continue;
        };
        bytes += lease.encoded_len() + 16;
        if bytes <= MAX_LEASES_BYTES {
            leases.push(lease);
        } else {
            too_many.push(token);
        }
    }
    (leases, too_many)
}

fn releases(tokens: Vec<LeaseToken>) -> Vec<Result<TaskOp, Error>> {
    let release = |token: LeaseToken| TaskOp {
        id: token.task,
        kind: TaskOpKind::Event(Event::Release {
            fence: token.fence,
            secret: token.secret,
        }),
    };
    tokens.into_iter().map(|token| Ok(release(token))).collect()
}

async fn release(namespace: &Namespace, tokens: Vec<LeaseToken>) -> Result<(), Error> {
    for result in namespace.tasks(releases(tokens)).await? {
        match result {
            // What is lost already need not be given back.
            Ok(_) => {}
            Err(error) if error.reason == Reason::LeaseLost => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Items by the namespace that their tokens name, with their places in the call. Nearly always
/// there is one.
fn by_namespace<T>(
    items: Vec<T>,
    namespace: impl Fn(&T) -> NamespaceId,
) -> Vec<(NamespaceId, Vec<usize>, Vec<T>)> {
    let mut groups: Vec<(NamespaceId, Vec<usize>, Vec<T>)> = Vec::new();
    for (place, item) in items.into_iter().enumerate() {
        let id = namespace(&item);
        match groups.iter_mut().find(|(known, ..)| *known == id) {
            Some((_, places, items)) => {
                places.push(place);
                items.push(item);
            }
            None => groups.push((id, vec![place], vec![item])),
        }
    }
    groups
}

fn lease_status(status: LeaseStatus) -> pb::LeaseStatus {
    let (disposition, valid_for) = match status {
        LeaseStatus::Held(period) => (Disposition::Held, Some(period)),
        LeaseStatus::CancelRequested(period) => (Disposition::CancelRequested, Some(period)),
        LeaseStatus::Lost => (Disposition::Lost, None),
    };
    pb::LeaseStatus {
        disposition: disposition as i32,
        valid_for: valid_for.map(duration),
    }
}

fn lease_lost(namespace: &NamespaceId) -> Error {
    Error::new(
        Reason::LeaseLost,
        format!("namespace {namespace} is not here, nor is any lease in it: stop the work"),
    )
    .with("namespace", namespace)
}

fn refused(error: &Error) -> outcome_result::Result {
    outcome_result::Result::Error(to_item(error))
}
