//! Errors, grouped: list, read and watch the groups, report failures that no task carries.

use std::collections::{BTreeMap, VecDeque};

use futures_util::{Stream, future::BoxFuture};
use tonic::{Code, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    connection::Client,
    error::Error,
    paging,
    watch::{Framed, Watch, WatchKind, opening},
    watch_builder::WatchBuilder,
    watch_core::{Frame, View},
};
use crate::proto::v1::{
    ErrorGroup, FailureReport, GetErrorGroupRequest, GetErrorGroupResponse, ListErrorGroupsRequest,
    ListErrorGroupsResponse, ReportFailuresRequest, WatchErrorsRequest, WatchErrorsResponse,
    WatchOptions, watch_errors_response,
};

/// A page of ListErrorGroups.
pub type ErrorGroupPage = ListErrorGroupsResponse;

/// A watch of error groups.
pub type ErrorWatch = Watch<ErrorGroups>;

/// Settings of an [`ErrorWatch`].
pub type ErrorWatchBuilder = WatchBuilder<ErrorGroups>;

/// The API's limit for one ReportFailures.
const MAX_REPORTS: usize = 100;

impl Client {
    /// One page of the namespace's error groups; `page_size` 0 is the server's default, an empty
    /// token the first page.
    ///
    /// # Errors
    ///
    /// When the token is of another list, or there is no answer in time.
    pub async fn list_error_groups(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<ErrorGroupPage, Error> {
        let request = ListErrorGroupsRequest {
            parent: self.parent(),
            page_size,
            page_token: page_token.to_owned(),
        };
        self.unary("ListErrorGroups", request, |request| {
            let mut errors = self.errors();
            async move { errors.list_error_groups(request).await }
        })
        .await
    }

    /// All error groups of the namespace in the order of their fingerprints, page after page as they
    /// are asked for.
    pub fn error_groups(&self) -> impl Stream<Item = Result<ErrorGroup, Error>> + Send {
        let client = self.clone();
        paging::all(move |token| {
            let client = client.clone();
            async move {
                let page = client.list_error_groups(paging::PAGE, &token).await?;
                Ok((page.groups, page.next_page_token))
            }
        })
    }

    /// One group with the tasks it last occurred in.
    ///
    /// # Errors
    ///
    /// When there is no such group, or no answer in time.
    pub async fn error_group(&self, fingerprint: &str) -> Result<GetErrorGroupResponse, Error> {
        const OPERATION: &str = "GetErrorGroup";
        let request = GetErrorGroupRequest {
            parent: self.parent(),
            fingerprint: fingerprint.to_owned(),
        };
        let answer = self
            .unary(OPERATION, request, |request| {
                let mut errors = self.errors();
                async move { errors.get_error_group(request).await }
            })
            .await?;
        match answer.group {
            Some(_) => Ok(answer),
            None => Err(Error::new(
                OPERATION,
                Code::Internal,
                "ANSWER_INCOMPLETE",
                "the answer has no group",
            )),
        }
    }

    /// Reports failures outside a leased task, in as many calls as it takes. Each counts once however
    /// often it is sent: one without a `report_id` is given one.
    ///
    /// # Errors
    ///
    /// When a call fails; what calls before it reported stands.
    pub async fn report_failures(
        &self,
        reports: impl IntoIterator<Item = FailureReport>,
    ) -> Result<(), Error> {
        let identified = |mut report: FailureReport| {
            if report.report_id.is_empty() {
                report.report_id = Uuid::new_v4().to_string();
            }
            report
        };
        let mut waiting: VecDeque<_> = reports.into_iter().map(identified).collect();
        while !waiting.is_empty() {
            let request = ReportFailuresRequest {
                parent: self.parent(),
                reports: paging::take_batch(&mut waiting, MAX_REPORTS),
            };
            self.unary("ReportFailures", request, |request| {
                let mut errors = self.errors();
                async move { errors.report_failures(request).await }
            })
            .await?;
        }
        Ok(())
    }

    /// Watches the error groups of the namespace: a map by fingerprint.
    pub fn watch_errors(&self) -> ErrorWatchBuilder {
        WatchBuilder::new(self, ErrorGroups {})
    }
}

/// Watches error groups.
#[derive(Debug)]
pub struct ErrorGroups {}

/// Groups are never removed: a change is the group as it is now.
impl View for BTreeMap<String, ErrorGroup> {
    type Change = ErrorGroup;

    fn apply(&mut self, group: ErrorGroup) {
        self.insert(group.fingerprint.clone(), group);
    }
}

impl WatchKind for ErrorGroups {
    type Response = WatchErrorsResponse;
    type View = BTreeMap<String, ErrorGroup>;
    const OPERATION: &'static str = "WatchErrors";

    fn open(
        &self,
        client: &Client,
        options: WatchOptions,
    ) -> BoxFuture<'static, Result<Response<Streaming<WatchErrorsResponse>>, Status>> {
        let request = WatchErrorsRequest {
            parent: client.parent(),
            options: Some(options),
        };
        let mut errors = client.error_watches();
        opening(async move { errors.watch_errors(request).await })
    }

    fn may_end(&self) -> bool {
        false
    }
}

impl Framed for ErrorGroups {
    fn frame(&self, response: WatchErrorsResponse) -> Option<Frame<ErrorGroup>> {
        use watch_errors_response::Frame as Wire;
        Some(match response.frame? {
            Wire::Opened(opened) => Frame::Opened(opened),
            Wire::Snapshot(chunk) => Frame::Snapshot(chunk.groups),
            Wire::Synced(synced) => Frame::Synced(synced.position.unwrap_or_default()),
            Wire::Delta(delta) => Frame::Delta {
                base: delta.base_revision,
                position: delta.position,
                changes: delta.changed,
                more: delta.more,
                folded: delta.folded_commits,
            },
            Wire::Bookmark(bookmark) => Frame::Bookmark(bookmark.position?),
            Wire::Reset(reset) => Frame::Reset(reset),
            Wire::Closing(closing) => Frame::Closing(closing),
        })
    }
}

#[cfg(test)]
#[path = "errors_tests.rs"]
mod tests;
