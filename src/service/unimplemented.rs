//! What the package describes and this version does not have.

use tonic::{Request, Response, Status, async_trait};

use super::watch::Frames;
use crate::{
    domain::{Error, Reason},
    proto::v1::{self as pb, error_service_server::ErrorService},
};

/// The error for a part of the API that comes later.
pub(super) fn not_implemented(what: &str) -> Error {
    Error::new(
        Reason::NotImplemented,
        format!("{what} is not in this version"),
    )
}

/// Failures stay with their tasks; they are not grouped.
#[derive(Debug)]
pub(super) struct Errors;

#[async_trait]
impl ErrorService for Errors {
    type WatchErrorsStream = Frames<pb::WatchErrorsResponse>;

    async fn report_failures(
        &self,
        _: Request<pb::ReportFailuresRequest>,
    ) -> Result<Response<pb::ReportFailuresResponse>, Status> {
        Err(not_implemented("ReportFailures").into())
    }

    async fn get_error_group(
        &self,
        _: Request<pb::GetErrorGroupRequest>,
    ) -> Result<Response<pb::GetErrorGroupResponse>, Status> {
        Err(not_implemented("GetErrorGroup").into())
    }

    async fn list_error_groups(
        &self,
        _: Request<pb::ListErrorGroupsRequest>,
    ) -> Result<Response<pb::ListErrorGroupsResponse>, Status> {
        Err(not_implemented("ListErrorGroups").into())
    }

    async fn watch_errors(
        &self,
        _: Request<pb::WatchErrorsRequest>,
    ) -> Result<Response<Self::WatchErrorsStream>, Status> {
        Err(not_implemented("WatchErrors").into())
    }
}
