//! Watches as gRPC streams: each poll drives the watch, and nothing is made before it is polled
//! for. HTTP/2 polls one message ahead of the room there is, so a client that does not read costs
//! one frame.

use std::task::{Poll, ready};

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::convert::{Stage, lease_frame};
use crate::{
    domain::NamespaceId,
    engine::watch::{ErrorWatch, Frame, LeaseWatch, Source, StateWatch, TaskWatch, Watch},
    proto::v1 as pb,
};

/// What a streaming call answers with.
pub(super) type Frames<M> = BoxStream<'static, Result<M, Status>>;

/// Messages of a watch until it ends; the permit is given back with the stream.
pub(super) fn states(
    namespace: NamespaceId,
    watch: StateWatch,
    permit: OwnedSemaphorePermit,
) -> Frames<pb::WatchStateResponse> {
    let stage = move |watch: &StateWatch, frame| {
        let token = |revision| watch.token(revision);
        let namespace = &namespace;
        Stage { namespace, token }.state_frame(frame)
    };
    frames(watch, permit, stage)
}

/// The same for tasks.
pub(super) fn tasks(
    namespace: NamespaceId,
    watch: TaskWatch,
    permit: OwnedSemaphorePermit,
) -> Frames<pb::WatchTasksResponse> {
    let stage = move |watch: &TaskWatch, frame| {
        let token = |revision| watch.token(revision);
        let namespace = &namespace;
        Stage { namespace, token }.task_frame(frame)
    };
    frames(watch, permit, stage)
}

/// The same for error groups.
pub(super) fn errors(
    namespace: NamespaceId,
    watch: ErrorWatch,
    permit: OwnedSemaphorePermit,
) -> Frames<pb::WatchErrorsResponse> {
    let stage = move |watch: &ErrorWatch, frame| {
        let token = |revision| watch.token(revision);
        let namespace = &namespace;
        Stage { namespace, token }.error_frame(frame)
    };
    frames(watch, permit, stage)
}

fn frames<S: Source, M: Send + 'static>(
    watch: Watch<S>,
    permit: OwnedSemaphorePermit,
    message: impl Fn(&Watch<S>, Frame<S::Item>) -> M + Send + 'static,
) -> Frames<M>
where
    Watch<S>: Send,
{
    let mut watch = watch;
    let frames = stream::poll_fn(move |context| {
        let _held = &permit;
        let frame = ready!(watch.poll_next(context));
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => Ok(message(&watch, frame)),
            Err(error) => Err(Status::from(error)),
        }))
    });
    frames.boxed()
}

/// News of a worker's leases.
pub(super) fn leases(
    watch: LeaseWatch,
    permit: OwnedSemaphorePermit,
) -> Frames<pb::WatchLeasesResponse> {
    stream::unfold((watch, permit), |(mut watch, permit)| async {
        let news = watch.next().await?;
        let frame = news.map(lease_frame).map_err(Status::from);
        Some((frame, (watch, permit)))
    })
    .boxed()
}
