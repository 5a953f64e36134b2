//! What the server says about itself and its workers.

use super::{connection::Client, error::Error};
use crate::proto::v1::{
    GetServerInfoRequest, GetServerInfoResponse, ListBackgroundJobsRequest,
    ListBackgroundJobsResponse, ListWorkersRequest, ListWorkersResponse,
};

impl Client {
    /// Version, limits and features.
    ///
    /// # Errors
    ///
    /// When there is no answer in time.
    pub async fn server_info(&self) -> Result<GetServerInfoResponse, Error> {
        self.unary("GetServerInfo", GetServerInfoRequest {}, |request| {
            let mut systems = self.systems();
            async move { systems.get_server_info(request).await }
        })
        .await
    }

    /// The server's own jobs.
    ///
    /// # Errors
    ///
    /// When there is no answer in time.
    pub async fn background_jobs(&self) -> Result<ListBackgroundJobsResponse, Error> {
        self.unary(
            "ListBackgroundJobs",
            ListBackgroundJobsRequest {},
            |request| {
                let mut systems = self.systems();
                async move { systems.list_background_jobs(request).await }
            },
        )
        .await
    }

    /// One page of the workers that are connected to the namespace.
    ///
    /// # Errors
    ///
    /// When there is no answer in time.
    pub async fn list_workers(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<ListWorkersResponse, Error> {
        let request = ListWorkersRequest {
            parent: self.parent(),
            page_size,
            page_token: page_token.to_owned(),
        };
        self.unary("ListWorkers", request, |request| {
            let mut systems = self.systems();
            async move { systems.list_workers(request).await }
        })
        .await
    }
}
