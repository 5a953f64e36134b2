//! `ErrorService`: count failures, and read, list and watch what is counted.

use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Context, convert, position,
    watch::{self, Frames},
};
use crate::{
    domain::{
        failure::Fingerprint,
        id::parse_namespace,
        limits::{MAX_MESSAGE_BYTES, MAX_REPORTS_PER_CALL},
    },
    proto::v1::{self as pb, error_service_server::ErrorService},
};

/// A page of a list may weigh this much; beyond it, it holds fewer groups than asked for.
const MAX_PAGE_BYTES: usize = MAX_MESSAGE_BYTES - (256 << 10);

/// See the module.
#[derive(Debug)]
pub(super) struct Errors(pub(super) Context);

#[async_trait]
impl ErrorService for Errors {
    type WatchErrorsStream = Frames<pb::WatchErrorsResponse>;

    async fn report_failures(
        &self,
        request: Request<pb::ReportFailuresRequest>,
    ) -> Result<Response<pb::ReportFailuresResponse>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        convert::items_up_to("reports", request.reports.len(), 1, MAX_REPORTS_PER_CALL)?;
        let mut reports = Vec::with_capacity(request.reports.len());
        for report in request.reports {
            reports.extend(convert::report(report)?);
        }
        // Cancels alone, which are not counted: no namespace is made for them.
        if !reports.is_empty() {
            let namespace = self.0.namespace(&id).await?;
            namespace.report(reports).await?;
        }
        Ok(Response::new(pb::ReportFailuresResponse {}))
    }

    async fn get_error_group(
        &self,
        request: Request<pb::GetErrorGroupRequest>,
    ) -> Result<Response<pb::GetErrorGroupResponse>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        let fingerprint = Fingerprint::parse("fingerprint", &request.fingerprint)?;
        let namespace = self.0.existing(&id)?;
        let (row, at) = namespace.get_error_group(fingerprint)?;
        let tasks = row.group.tasks.iter();
        Ok(Response::new(pb::GetErrorGroupResponse {
            tasks: tasks.map(|task| id.task_name(task)).collect(),
            group: Some(convert::error_group(&id, &row)),
            position: Some(position(&namespace, at)),
        }))
    }

    async fn list_error_groups(
        &self,
        request: Request<pb::ListErrorGroupsRequest>,
    ) -> Result<Response<pb::ListErrorGroupsResponse>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        let namespace = self.0.existing(&id)?;
        let mut size = request.page_size;
        loop {
            let page = namespace.list_error_groups(size, &request.page_token)?;
            let rows = page.items.iter();
            let response = pb::ListErrorGroupsResponse {
                groups: rows.map(|row| convert::error_group(&id, row)).collect(),
                next_page_token: page.next_page_token,
                position: Some(position(&namespace, page.position)),
            };
            if response.groups.len() < 2 || response.encoded_len() <= MAX_PAGE_BYTES {
                return Ok(Response::new(response));
            }
            size = i32::try_from(response.groups.len() / 2).unwrap_or(1);
        }
    }

    async fn watch_errors(
        &self,
        request: Request<pb::WatchErrorsRequest>,
    ) -> Result<Response<Self::WatchErrorsStream>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        let options = convert::options(request.options)?;
        let namespace = self.0.existing(&id)?;
        let permit = self.0.streams.watch()?;
        let watch = namespace.watch_errors(&options).await?;
        Ok(Response::new(watch::errors(id, watch, permit)))
    }
}
