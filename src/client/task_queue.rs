//! The queues that tasks wait in: look at them, pause and limit them. (A [`StateQueue`] is something
//! else: it writes to a state.)
//!
//! [`StateQueue`]: super::StateQueue

use bytes::Bytes;
use futures_util::Stream;
use prost_types::FieldMask;
use tonic::Code;
use uuid::Uuid;

use super::{connection::Client, error::Error, paging};
use crate::proto::v1::{
    GetQueueRequest, ListQueuesRequest, ListQueuesResponse, Queue, QueueSettings,
    UpdateQueueRequest,
};

/// A page of ListQueues.
pub type QueuePage = ListQueuesResponse;

fn absent(operation: &'static str) -> Error {
    Error::new(
        operation,
        Code::Internal,
        "ANSWER_INCOMPLETE",
        "the answer has no queue".to_owned(),
    )
}

impl Client {
    /// A queue as it is now; one that nobody has named is empty and has default settings.
    ///
    /// # Errors
    ///
    /// When there is no answer in time.
    pub async fn get_queue(&self, queue: &str) -> Result<Queue, Error> {
        const OPERATION: &str = "GetQueue";
        let request = GetQueueRequest {
            name: self.queue_name(queue),
            min_position: Bytes::new(),
        };
        let answer = self
            .unary(OPERATION, request, |request| {
                let mut queues = self.task_queues();
                async move { queues.get_queue(request).await }
            })
            .await?;
        answer.queue.ok_or_else(|| absent(OPERATION))
    }

    /// One page of the queues that have settings or tasks; `page_size` 0 is the server's default, an
    /// empty token the first page.
    ///
    /// # Errors
    ///
    /// When the token is of another list, or there is no answer in time.
    pub async fn list_queues(&self, page_size: i32, page_token: &str) -> Result<QueuePage, Error> {
        let request = ListQueuesRequest {
            parent: self.parent(),
            page_size,
            page_token: page_token.to_owned(),
            min_position: Bytes::new(),
        };
        self.unary("ListQueues", request, |request| {
            let mut queues = self.task_queues();
            async move { queues.list_queues(request).await }
        })
        .await
    }

    /// All queues that have settings or tasks, page after page as they are asked for.
    pub fn all_queues(&self) -> impl Stream<Item = Result<Queue, Error>> + Send {
        let client = self.clone();
        paging::all(move |token| {
            let client = client.clone();
            async move {
                let page = client.list_queues(paging::PAGE, &token).await?;
                Ok((page.queues, page.next_page_token))
            }
        })
    }

    /// Hands out no more tasks of the queue; it goes on accepting them, and running ones go on.
    ///
    /// # Errors
    ///
    /// When the server refuses it, or gives no answer in time.
    pub async fn pause_queue(&self, queue: &str) -> Result<Queue, Error> {
        let settings = QueueSettings {
            paused: true,
            ..QueueSettings::default()
        };
        self.update_queue(queue, settings, &["paused"]).await
    }

    /// Hands out tasks of the queue again.
    ///
    /// # Errors
    ///
    /// When the server refuses it, or gives no answer in time.
    pub async fn resume_queue(&self, queue: &str) -> Result<Queue, Error> {
        let settings = QueueSettings::default();
        self.update_queue(queue, settings, &["paused"]).await
    }

    /// Changes those settings of the queue that `fields` names, such as `max_running`; none: all.
    ///
    /// # Errors
    ///
    /// When the server refuses it, or gives no answer in time.
    pub async fn update_queue(
        &self,
        queue: &str,
        settings: QueueSettings,
        fields: &[&str],
    ) -> Result<Queue, Error> {
        const OPERATION: &str = "UpdateQueue";
        let request = UpdateQueueRequest {
            name: self.queue_name(queue),
            settings: Some(settings),
            request_id: Uuid::new_v4().to_string(),
            update_mask: Some(FieldMask {
                paths: fields.iter().map(|&field| field.to_owned()).collect(),
            }),
        };
        let answer = self
            .unary(OPERATION, request, |request| {
                let mut queues = self.task_queues();
                async move { queues.update_queue(request).await }
            })
            .await?;
        answer.queue.ok_or_else(|| absent(OPERATION))
    }
}
