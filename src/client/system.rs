//! What the server says about itself and its workers.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tonic::Code;

use super::{connection::Client, error::Error};
use crate::proto::v1::{
    BackupJournalRequest, GetServerInfoRequest, GetServerInfoResponse, ListBackgroundJobsRequest,
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

    /// A backup of all namespaces, part by part: what `duite journal backup` writes to its file.
    /// The server makes one at a time.
    ///
    /// # Errors
    ///
    /// When there is no answer in time, or another is being made.
    pub async fn backup_journal(
        &self,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + use<>, Error> {
        const OPERATION: &str = "BackupJournal";
        let mut systems = self.system_streams();
        let call = systems.backup_journal(BackupJournalRequest {});
        let opened = tokio::time::timeout(self.deadline(), call).await;
        let opened = opened.map_err(|_| {
            let message = "no answer in time";
            Error::new(OPERATION, Code::DeadlineExceeded, "DEADLINE", message)
        })?;
        let opened = opened.map_err(|status| Error::from_status(OPERATION, &status))?;
        Ok(opened.into_inner().map(|part| match part {
            Ok(part) => Ok(part.data),
            Err(status) => Err(Error::from_status(OPERATION, &status)),
        }))
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
