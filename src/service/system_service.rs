//! `SystemService`: what the server is, and what runs in it.

use std::{pin::Pin, time::Duration};

use futures_util::Stream;
use tonic::{Request, Response, Status, async_trait};

use super::{Context, backup, convert::duration};
use crate::{
    domain::{
        Uid,
        id::parse_namespace,
        limits::{
            HISTORY_WINDOW, MAX_FRAME_BYTES, MAX_KEY_BYTES, MAX_KEYS_PER_STATE, MAX_MESSAGE_BYTES,
            MAX_VALUE_BYTES,
        },
    },
    engine::{clock::Now, mirror::InstanceRow},
    proto::v1::{self as pb, system_service_server::SystemService},
    runtime::{JobKind, library},
};

/// See the module.
#[derive(Debug)]
pub(super) struct System(pub(super) Context);

#[async_trait]
impl SystemService for System {
    type BackupJournalStream =
        Pin<Box<dyn Stream<Item = Result<pb::BackupJournalResponse, Status>> + Send>>;

    async fn backup_journal(
        &self,
        _: Request<pb::BackupJournalRequest>,
    ) -> Result<Response<Self::BackupJournalStream>, Status> {
        let permit = self.0.streams.backup()?;
        let backup = backup::start(self.0.engine.clone(), permit);
        Ok(Response::new(Box::pin(backup)))
    }

    async fn get_server_info(
        &self,
        _: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::GetServerInfoResponse>, Status> {
        Ok(Response::new(pb::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: Vec::new(),
            max_message_bytes: MAX_MESSAGE_BYTES as i64,
            max_value_bytes: MAX_VALUE_BYTES as i64,
            history_window: Some(duration(HISTORY_WINDOW)),
            max_frame_bytes: MAX_FRAME_BYTES as i64,
            max_key_bytes: MAX_KEY_BYTES as i32,
            max_keys_per_state: MAX_KEYS_PER_STATE as i32,
            store_epoch: self.0.engine.epoch().to_string(),
            durability: self.0.engine.durability().to_string(),
        }))
    }

    async fn list_background_jobs(
        &self,
        _: Request<pb::ListBackgroundJobsRequest>,
    ) -> Result<Response<pb::ListBackgroundJobsResponse>, Status> {
        let mut jobs: Vec<_> = self.0.jobs.jobs();
        // The library's own jobs in this process are the server's; its passing tasks are not listed.
        let of_library = library().jobs().into_iter();
        jobs.extend(of_library.filter(|job| job.kind != JobKind::Task));
        jobs.sort_by(|a, b| (a.kind.as_str(), &a.name).cmp(&(b.kind.as_str(), &b.name)));
        let jobs = jobs.into_iter().map(|job| pb::BackgroundJob {
            name: job.name,
            kind: job.kind.as_str().to_owned(),
            restarts: i64::try_from(job.restarts).unwrap_or(i64::MAX),
            last_failure: job.last_failure,
            failures: i64::try_from(job.failures).unwrap_or(i64::MAX),
            running: job.running,
            on_failure: job.kind.on_failure().as_str().to_owned(),
        });
        Ok(Response::new(pb::ListBackgroundJobsResponse {
            jobs: jobs.collect(),
            pending: i64::try_from(self.0.jobs.pending_tasks()).unwrap_or(i64::MAX),
        }))
    }

    async fn list_workers(
        &self,
        request: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        let request = request.into_inner();
        let namespace = self
            .0
            .existing(&parse_namespace("parent", &request.parent)?)?;
        let page = namespace.list_instances(request.page_size, &request.page_token)?;
        let now_us = Now::read().wall_us;
        let workers = page.items.into_iter();
        Ok(Response::new(pb::ListWorkersResponse {
            workers: workers
                .map(|(row, leases, suspect)| worker(row, leases, suspect, now_us))
                .collect(),
            next_page_token: page.next_page_token,
        }))
    }
}

fn worker(row: InstanceRow, leases: usize, suspect: bool, now_us: i64) -> pb::WorkerInstance {
    let record = row.record;
    let silent_us = u64::try_from(now_us.saturating_sub(record.time_us)).unwrap_or_default();
    pb::WorkerInstance {
        instance_uid: Uid::from_bytes(&record.uid).unwrap_or_default().to_string(),
        worker_id: record.worker_id,
        queues: record.queues,
        task_types: record.task_types,
        leases: i32::try_from(leases).unwrap_or(i32::MAX),
        since_renewal: Some(duration(Duration::from_micros(silent_us))),
        suspect,
    }
}
