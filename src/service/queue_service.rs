//! `QueueService`: list queues, pause and limit them.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Context,
    convert::{self, optional_uuid},
    position,
};
use crate::{
    domain::id::{parse_namespace, parse_queue_name},
    proto::v1::{self as pb, queue_service_server::QueueService},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Queues(pub(super) Context);

#[async_trait]
impl QueueService for Queues {
    async fn list_queues(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        let namespace = self.0.existing(&id)?;
        namespace.reach(&request.min_position).await?;
        let page = namespace.list_queues(request.page_size, &request.page_token)?;
        let queues = page.items.iter();
        Ok(Response::new(pb::ListQueuesResponse {
            queues: queues.map(|view| convert::queue(&id, view)).collect(),
            next_page_token: page.next_page_token,
            position: Some(position(&namespace, page.position)),
        }))
    }

    async fn get_queue(
        &self,
        request: Request<pb::GetQueueRequest>,
    ) -> Result<Response<pb::GetQueueResponse>, Status> {
        let request = request.into_inner();
        let (id, queue) = parse_queue_name("name", &request.name)?;
        let namespace = self.0.existing(&id)?;
        namespace.reach(&request.min_position).await?;
        let (view, at) = namespace.get_queue(queue);
        Ok(Response::new(pb::GetQueueResponse {
            queue: Some(convert::queue(&id, &view)),
            position: Some(position(&namespace, at)),
        }))
    }

    async fn update_queue(
        &self,
        request: Request<pb::UpdateQueueRequest>,
    ) -> Result<Response<pb::UpdateQueueResponse>, Status> {
        let request = request.into_inner();
        let (id, queue) = parse_queue_name("name", &request.name)?;
        optional_uuid("request_id", &request.request_id)?;
        let change = convert::queue_change(request.settings, request.update_mask)?;
        let namespace = self.0.namespace(&id).await?;
        let revision = namespace.set_queue(queue.clone(), change).await?;
        let (view, _) = namespace.get_queue(queue);
        Ok(Response::new(pb::UpdateQueueResponse {
            queue: Some(convert::queue(&id, &view)),
            position: Some(position(&namespace, revision)),
        }))
    }
}
