//! States by unary calls: get, list, update, modify, delete, settings.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::Stream;
use tonic::Code;
use uuid::Uuid;

use super::{
    backoff::Backoff, connection::Client, error::Error, paging, update::Update, value::decode_value,
};
use crate::proto::v1::{
    DeleteStateRequest, GetMonitorRequest, GetMonitorResponse, GetStateRequest, GetStateResponse,
    ListStatesRequest, ListStatesResponse, Position, SharedState, StateSettings,
    UpdateStateRequest, UpdateStateResponse, UpdateStateSettingsRequest, Value,
};

/// How often [`Client::modify_state`] decides anew before it gives up.
const MAX_MODIFY_ATTEMPTS: u32 = 10;

fn absent(operation: &'static str) -> Error {
    Error::new(
        operation,
        Code::Internal,
        "ANSWER_INCOMPLETE",
        "the answer has no state",
    )
}

impl Client {
    /// The state, whole or just `keys` of it, and the position of the reading.
    ///
    /// # Errors
    ///
    /// `STATE_NOT_FOUND`, `VALUE_TOO_LARGE` when it is more than 4 MiB, or when there is no answer
    /// in time.
    pub async fn get_state(
        &self,
        state: &str,
        keys: &[&str],
    ) -> Result<(SharedState, Position), Error> {
        self.get_state_within(state, keys, 0).await
    }

    /// The same, but values of more than `inline_limit_bytes` come as stubs; 0: none does.
    ///
    /// # Errors
    ///
    /// As [`Client::get_state`].
    pub async fn get_state_within(
        &self,
        state: &str,
        keys: &[&str],
        inline_limit_bytes: i64,
    ) -> Result<(SharedState, Position), Error> {
        const OPERATION: &str = "GetState";
        let request = GetStateRequest {
            name: self.state_name(state),
            keys: keys.iter().map(ToString::to_string).collect(),
            min_position: Bytes::new(),
            inline_limit_bytes,
        };
        let GetStateResponse { state, position } = self
            .unary(OPERATION, request, |request| {
                let mut states = self.states();
                async move { states.get_state(request).await }
            })
            .await?;
        Ok((
            state.ok_or_else(|| absent(OPERATION))?,
            position.unwrap_or_default(),
        ))
    }

    /// Operations on a state in one commit.
    pub fn update_state(&self, state: &str) -> UpdateState {
        UpdateState {
            client: self.clone(),
            request: UpdateStateRequest {
                name: self.state_name(state),
                request_id: Uuid::new_v4().to_string(),
                ..UpdateStateRequest::default()
            },
        }
    }

    /// Reads some keys of a state, lets `modify` decide what to do about them, and does it if
    /// nothing was written to the state in between; else all of it again, ten times at most. An
    /// empty list of updates does nothing, and gives none.
    ///
    /// ```no_run
    /// # use duite::client::{Client, Error, Update};
    /// # use duite::proto::v1::value::Kind;
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// client.modify_state("limits", &["speed"], |keys| match keys.get("speed").map(|value| &value.kind) {
    ///     Some(Some(Kind::Number(speed))) if *speed < 100.0 => vec![Update::put("speed", speed * 2.0)],
    ///     _ => vec![],
    /// }).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Any write to the state counts, whatever its key: what is decided in this way belongs in a
    /// state that is written seldom, not in one that a task reports its progress to.
    ///
    /// # Errors
    ///
    /// `STATE_NOT_FOUND`: create it first, by any update. `REVISION_MISMATCH` when others wrote at
    /// each of the attempts. Or what else a read or a write may end with.
    pub async fn modify_state(
        &self,
        state: &str,
        keys: &[&str],
        mut modify: impl FnMut(&BTreeMap<String, Value>) -> Vec<Update>,
    ) -> Result<Option<UpdateStateResponse>, Error> {
        const OPERATION: &str = "UpdateState";
        let mut backoff = Backoff::new(
            std::time::Duration::from_millis(5),
            std::time::Duration::from_millis(500),
        );
        let mut attempt = 1;
        loop {
            let (found, _) = self.get_state(state, keys).await?;
            let mut held = BTreeMap::new();
            for entry in found.entries {
                let value = decode_value(&entry.value).map_err(|error| {
                    let message =
                        format!("the value of key `{}` cannot be read: {error}", entry.key);
                    Error::new(OPERATION, Code::Internal, "VALUE_UNREADABLE", message)
                })?;
                held.insert(entry.key, value);
            }
            let updates = modify(&held);
            if updates.is_empty() {
                return Ok(None);
            }
            let update = self.update_state(state).expected_revision(found.revision);
            let error = match updates
                .into_iter()
                .fold(update, UpdateState::update)
                .send()
                .await
            {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) if error.reason() == "REVISION_MISMATCH" => error,
                Err(error) => return Err(error),
            };
            if attempt == MAX_MODIFY_ATTEMPTS {
                let message = format!(
                    "others wrote to {} at each of {attempt} attempts to modify it ({}): try again \
                     later, or keep these keys in a state that is written less often",
                    self.state_name(state),
                    error.message()
                );
                return Err(Error::new(
                    OPERATION,
                    Code::Aborted,
                    "REVISION_MISMATCH",
                    message,
                ));
            }
            attempt += 1;
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// One page of states, without their entries.
    ///
    /// # Errors
    ///
    /// When there is no answer in time.
    pub async fn list_states(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<ListStatesResponse, Error> {
        let request = ListStatesRequest {
            parent: self.parent(),
            page_size,
            page_token: page_token.to_owned(),
        };
        self.unary("ListStates", request, |request| {
            let mut states = self.states();
            async move { states.list_states(request).await }
        })
        .await
    }

    /// All states, without their entries, page after page as they are asked for.
    pub fn all_states(&self) -> impl Stream<Item = Result<SharedState, Error>> + Send {
        let client = self.clone();
        paging::all(move |token| {
            let client = client.clone();
            async move {
                let page = client.list_states(paging::PAGE, &token).await?;
                Ok((page.states, page.next_page_token))
            }
        })
    }

    /// Deletes a state; with a uid, that incarnation of it alone.
    ///
    /// # Errors
    ///
    /// `STATE_NOT_FOUND`, or when there is no answer in time.
    pub async fn delete_state(&self, state: &str, uid: Option<&str>) -> Result<Position, Error> {
        let request = DeleteStateRequest {
            name: self.state_name(state),
            uid: uid.unwrap_or_default().to_owned(),
        };
        let answer = self
            .unary("DeleteState", request, |request| {
                let mut states = self.states();
                async move { states.delete_state(request).await }
            })
            .await?;
        Ok(answer.position.unwrap_or_default())
    }

    /// Replaces a state's settings.
    ///
    /// # Errors
    ///
    /// When the server refuses them, or there is no answer in time.
    pub async fn update_state_settings(
        &self,
        state: &str,
        settings: StateSettings,
    ) -> Result<SharedState, Error> {
        const OPERATION: &str = "UpdateStateSettings";
        let request = UpdateStateSettingsRequest {
            name: self.state_name(state),
            settings: Some(settings),
        };
        let answer = self
            .unary(OPERATION, request, |request| {
                let mut states = self.states();
                async move { states.update_state_settings(request).await }
            })
            .await?;
        answer.state.ok_or_else(|| absent(OPERATION))
    }

    /// What the monitor does for a state.
    ///
    /// # Errors
    ///
    /// `STATE_NOT_FOUND`, or when there is no answer in time.
    pub async fn get_monitor(&self, state: &str) -> Result<GetMonitorResponse, Error> {
        let request = GetMonitorRequest {
            name: self.state_name(state),
        };
        self.unary("GetMonitor", request, |request| {
            let mut states = self.states();
            async move { states.get_monitor(request).await }
        })
        .await
    }
}

/// Operations on one state that take effect in one commit, or not at all.
#[derive(Debug, Clone)]
#[must_use = "an update does nothing until `send` is called"]
pub struct UpdateState {
    client: Client,
    request: UpdateStateRequest,
}

impl UpdateState {
    /// Any operation.
    pub fn update(mut self, update: Update) -> Self {
        self.request.updates.push(update.into_wire());
        self
    }

    /// Sets a key.
    pub fn put(self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.update(Update::put(key, value))
    }

    /// Removes a key.
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.update(Update::delete(key))
    }

    /// Adds to a key.
    pub fn add(self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.update(Update::add(key, value))
    }

    /// Raises a key.
    pub fn max(self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.update(Update::max(key, value))
    }

    /// Lowers a key.
    pub fn min(self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.update(Update::min(key, value))
    }

    /// Only if the state's revision is this one, as a read of it said; else nothing is done and the
    /// error is `REVISION_MISMATCH`: read again and decide anew, or let
    /// [`modify_state`](Client::modify_state) do that.
    pub fn expected_revision(mut self, revision: i64) -> Self {
        self.request.expected_revision = revision;
        self
    }

    /// Acts for a task's attempt; refused with `LEASE_LOST` once that is over.
    pub fn lease_token(mut self, token: impl Into<Bytes>) -> Self {
        self.request.lease_token = token.into();
        self
    }

    /// A UUID under which the update takes effect once. Default: a new one.
    pub fn request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request.request_id = request_id.into();
        self
    }

    /// Sends it; the answer names the keys that were rejected.
    ///
    /// # Errors
    ///
    /// When the server refuses the update as a whole, or gives no answer in time.
    pub async fn send(self) -> Result<UpdateStateResponse, Error> {
        let client = self.client;
        client
            .unary("UpdateState", self.request, |request| {
                let mut states = client.states();
                async move { states.update_state(request).await }
            })
            .await
    }
}
