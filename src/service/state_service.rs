//! `StateService`: read, update, delete, watch and push.

use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{
    Context,
    convert::{self, batch_too_large, items, ops_bytes, optional_uuid, within},
    position, push, read_state,
    watch::{self, Frames},
};
use crate::{
    domain::{
        Error, NamespaceId, StateId,
        id::{parse_namespace, parse_state_name},
        limits::{MAX_BATCH_BYTES, MAX_KEYS_PER_STATE, MAX_STATES_PER_WATCH},
        state::admit,
    },
    engine::{command::UpdateRequest, watch::WatchStates},
    proto::v1::{self as pb, state_service_server::StateService},
};

/// See the module.
#[derive(Debug)]
pub(super) struct States(pub(super) Context);

#[async_trait]
impl StateService for States {
    type WatchStateStream = Frames<pb::WatchStateResponse>;
    type PushStateStream = Frames<pb::PushStateResponse>;

    async fn get_state(
        &self,
        request: Request<pb::GetStateRequest>,
    ) -> Result<Response<pb::GetStateResponse>, Status> {
        let request = request.into_inner();
        let (id, state) = parse_state_name("name", &request.name)?;
        if request.keys.len() > MAX_KEYS_PER_STATE {
            let problem = format!("may hold {MAX_KEYS_PER_STATE}, got {}", request.keys.len());
            return Err(Error::field("keys", problem).into());
        }
        let limit = inline_limit(request.inline_limit_bytes)?;
        let namespace = self.0.existing(&id)?;
        namespace.reach(&request.min_position).await?;
        let response = read_state::read(&namespace, &state, &request.keys, limit).await?;
        Ok(Response::new(response))
    }

    async fn list_states(
        &self,
        request: Request<pb::ListStatesRequest>,
    ) -> Result<Response<pb::ListStatesResponse>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        let namespace = self.0.existing(&id)?;
        // Before the mirror is held: each writer is looked at.
        let writers = namespace.all_writers();
        let page =
            namespace.list_states(request.page_size, &request.page_token, |state, slot| {
                let (open, queued) = writers.get(state).copied().unwrap_or_default();
                pb::SharedState {
                    monitor: Some(convert::monitor(slot, open, queued)),
                    ..convert::shared_state(&id, &slot.state)
                }
            })?;
        Ok(Response::new(pb::ListStatesResponse {
            states: page.items,
            next_page_token: page.next_page_token,
            position: Some(position(&namespace, page.position)),
        }))
    }

    async fn update_state(
        &self,
        request: Request<pb::UpdateStateRequest>,
    ) -> Result<Response<pb::UpdateStateResponse>, Status> {
        let request = request.into_inner();
        let (id, state) = parse_state_name("name", &request.name)?;
        let asked = update_request(&id, state, request)?;
        let namespace = self.0.namespace(&id).await?;
        let updated = namespace.update(asked).await?;
        let mut rejected = convert::rejected(updated.rejected);
        // There is but one batch, and the caller gave it no number.
        rejected.iter_mut().for_each(|key| key.sequence = 0);
        Ok(Response::new(pb::UpdateStateResponse {
            position: Some(position(&namespace, updated.revision)),
            rejected,
        }))
    }

    async fn delete_state(
        &self,
        request: Request<pb::DeleteStateRequest>,
    ) -> Result<Response<pb::DeleteStateResponse>, Status> {
        let request = request.into_inner();
        let (id, state) = parse_state_name("name", &request.name)?;
        let uid = optional_uuid("uid", &request.uid)?;
        let namespace = self.0.existing(&id)?;
        let revision = namespace.delete_state(state, uid).await?;
        Ok(Response::new(pb::DeleteStateResponse {
            position: Some(position(&namespace, revision)),
        }))
    }

    async fn update_state_settings(
        &self,
        request: Request<pb::UpdateStateSettingsRequest>,
    ) -> Result<Response<pb::UpdateStateSettingsResponse>, Status> {
        let request = request.into_inner();
        let (id, state) = parse_state_name("name", &request.name)?;
        let settings = convert::settings(request.settings)?;
        let namespace = self.0.namespace(&id).await?;
        let revision = namespace.set_state(state.clone(), settings).await?;
        let state =
            namespace.read_state(&state, |slot, _| convert::shared_state(&id, &slot.state))?;
        Ok(Response::new(pb::UpdateStateSettingsResponse {
            state: Some(state),
            position: Some(position(&namespace, revision)),
        }))
    }

    async fn get_monitor(
        &self,
        request: Request<pb::GetMonitorRequest>,
    ) -> Result<Response<pb::GetMonitorResponse>, Status> {
        let (id, state) = parse_state_name("name", &request.into_inner().name)?;
        let namespace = self.0.existing(&id)?;
        let writers = namespace.writers(&state);
        let queued: u64 = writers.iter().map(|writer| writer.queued()).sum();
        let (monitor, at) = namespace.read_state(&state, |slot, head| {
            (convert::monitor(slot, writers.len(), queued), head)
        })?;
        Ok(Response::new(pb::GetMonitorResponse {
            monitor: Some(monitor),
            position: Some(position(&namespace, at)),
        }))
    }

    async fn watch_state(
        &self,
        request: Request<pb::WatchStateRequest>,
    ) -> Result<Response<Self::WatchStateStream>, Status> {
        let request = request.into_inner();
        let (id, states) = watched(&request.names)?;
        let asked = WatchStates {
            states,
            keys: convert::key_filter(request.keys)?,
            options: convert::options(request.options)?,
            inline_limit: inline_limit(request.inline_limit_bytes)?,
        };
        let namespace = self.0.existing(&id)?;
        let permit = self.0.streams.watch()?;
        let watch = namespace.watch_states(asked).await?;
        let watch = watch.sharing(convert::encoded_delta);
        Ok(Response::new(watch::states(id, watch, permit)))
    }

    async fn push_state(
        &self,
        request: Request<Streaming<pb::PushStateRequest>>,
    ) -> Result<Response<Self::PushStateStream>, Status> {
        let permit = self.0.streams.push()?;
        let frames = push::stream(self.0.clone(), request.into_inner(), permit);
        Ok(Response::new(frames))
    }
}

/// What a lease holder's writes are shown with, and everybody else's.
pub(super) fn source(lease: Option<&crate::engine::token::LeaseToken>) -> String {
    lease.map_or_else(
        || "client".to_owned(),
        |token| token.namespace.task_name(token.task.as_str()),
    )
}

fn update_request(
    namespace: &NamespaceId,
    state: StateId,
    request: pb::UpdateStateRequest,
) -> Result<UpdateRequest, Error> {
    if request.updates.is_empty() {
        return Err(Error::field(
            "updates",
            "are missing: name at least one key",
        ));
    }
    let size = ops_bytes(&request.updates);
    if size > MAX_BATCH_BYTES {
        return Err(batch_too_large("updates", size));
    }
    let lease = convert::lease_token(namespace, &request.lease_token)?;
    let admitted = admit(convert::ops(1, request.updates));
    Ok(UpdateRequest {
        state,
        ops: admitted.ops,
        rejected: admitted.rejected,
        request_id: optional_uuid("request_id", &request.request_id)?,
        expected: convert::revision("expected_revision", request.expected_revision)?,
        source: source(lease.as_ref()),
        lease,
    })
}

/// The largest value that comes along; none: no bound of the client's.
fn inline_limit(asked: i64) -> Result<Option<usize>, Error> {
    match usize::try_from(asked) {
        Ok(0) => Ok(None),
        Ok(limit) => Ok(Some(limit)),
        Err(_) => {
            let problem = format!("must not be negative, got {asked}");
            Err(Error::field("inline_limit_bytes", problem))
        }
    }
}

/// The states of a watch: 1 to 64, of one namespace.
fn watched(names: &[String]) -> Result<(NamespaceId, Vec<StateId>), Error> {
    items("names", names.len(), 1)?;
    if names.len() > MAX_STATES_PER_WATCH {
        let problem = format!("may hold {MAX_STATES_PER_WATCH}, got {}", names.len());
        return Err(Error::field("names", problem).with("limit", MAX_STATES_PER_WATCH));
    }
    let mut namespace = None;
    let mut states = Vec::with_capacity(names.len());
    for name in names {
        let (named, state) = parse_state_name("names", name)?;
        within(
            "names",
            namespace.get_or_insert_with(|| named.clone()),
            &named,
        )?;
        if states.contains(&state) {
            return Err(Error::field("names", format!("hold {name} twice")));
        }
        states.push(state);
    }
    let namespace = namespace.ok_or_else(|| Error::field("names", "are missing"))?;
    Ok((namespace, states))
}
