//! Watch requests and frames.

use bytes::Bytes;
use prost::Message;

use super::{
    bounds::{clamped, duration, timestamp},
    errors::error_group,
    state::stub,
    task_out::{Detail, task},
};
use crate::{
    domain::{Error, NamespaceId, Revision, limits::MAX_KEY_BYTES},
    engine::{
        clock::Now,
        errors::ErrorRow,
        watch::{
            ClosingReason, Frame, KeyFilter, LeaseNews, ResetReason, Start, StateItem, TaskItem,
            WatchOptions,
        },
    },
    proto::v1::{
        self as pb, lease_status::Disposition, removed_task, watch_closing, watch_errors_response,
        watch_leases_response, watch_opened, watch_options::Delivery, watch_reset,
        watch_state_response, watch_tasks_response,
    },
    service::unimplemented::not_implemented,
};

/// Keys and prefixes of one filter: each is compared with every key that changes.
const MAX_KEY_PATTERNS: usize = 256;

/// How a watch starts and paces itself.
pub(crate) fn options(options: Option<pb::WatchOptions>) -> Result<WatchOptions, Error> {
    let options = options.unwrap_or_default();
    match Delivery::try_from(options.delivery) {
        Ok(Delivery::Unspecified | Delivery::Latest) => {}
        Ok(Delivery::Every) => {
            return Err(not_implemented("options.delivery DELIVERY_EVERY"));
        }
        Err(_) => {
            let problem = format!("is {}, which is no delivery", options.delivery);
            return Err(Error::field("options.delivery", problem));
        }
    }
    Ok(WatchOptions {
        resume_token: options.resume_token,
        min_position: options.min_position,
        heartbeat: clamped(options.heartbeat_interval.as_ref()),
        min_delta_interval: clamped(options.min_delta_interval.as_ref()).unwrap_or_default(),
        fail_if_compacted: options.fail_if_compacted,
        updates_only: options.updates_only,
    })
}

/// Which keys are watched.
pub(crate) fn key_filter(filter: Option<pb::KeyFilter>) -> Result<KeyFilter, Error> {
    let filter = filter.unwrap_or_default();
    let count = filter.exact.len() + filter.prefixes.len();
    if count > MAX_KEY_PATTERNS {
        let problem = format!("may hold {MAX_KEY_PATTERNS} keys and prefixes, got {count}");
        return Err(Error::field("keys", problem).with("limit", MAX_KEY_PATTERNS));
    }
    let mut patterns = filter.exact.iter().chain(&filter.prefixes);
    if let Some(long) = patterns.find(|pattern| pattern.len() > MAX_KEY_BYTES) {
        let problem = format!(
            "holds one of {} bytes, but a key has at most {MAX_KEY_BYTES}",
            long.len()
        );
        return Err(Error::field("keys", problem).with("limit", MAX_KEY_BYTES));
    }
    Ok(KeyFilter {
        exact: filter.exact,
        prefixes: filter.prefixes,
    })
}

/// What frames need to know of their watch.
pub(crate) struct Stage<'a, T: Fn(Revision) -> Bytes> {
    /// The namespace watched.
    pub(crate) namespace: &'a NamespaceId,
    /// Makes a token that resumes the watch.
    pub(crate) token: T,
}

impl<T: Fn(Revision) -> Bytes> Stage<'_, T> {
    fn position(&self, revision: Revision) -> Option<pb::Position> {
        Some(pb::Position {
            revision: revision.wire(),
            resume_token: (self.token)(revision),
        })
    }

    /// A frame of WatchState.
    pub(crate) fn state_frame(&self, frame: Frame<StateItem>) -> pb::WatchStateResponse {
        use watch_state_response::Frame as Out;
        let entries = |items: Vec<StateItem>| items.into_iter().map(key_change).collect();
        let frame = match self.common(frame) {
            Common::Opened(opened) => Out::Opened(opened),
            Common::Snapshot(items) => Out::Snapshot(pb::StateChunk {
                entries: entries(items),
            }),
            Common::Synced(synced) => Out::Synced(synced),
            Common::Delta(delta) => Out::from(pb::StateDelta {
                base_revision: delta.base,
                position: delta.position,
                changes: entries(delta.items),
                more: delta.more,
                folded_commits: delta.folded,
            }),
            Common::Encoded(delta) => Out::Delta(delta),
            Common::Bookmark(bookmark) => Out::Bookmark(bookmark),
            Common::Reset(reset) => Out::Reset(reset),
            Common::Closing(closing) => Out::Closing(closing),
        };
        pb::WatchStateResponse { frame: Some(frame) }
    }

    /// A frame of WatchTasks.
    pub(crate) fn task_frame(&self, frame: Frame<TaskItem>) -> pb::WatchTasksResponse {
        use watch_tasks_response::Frame as Out;
        let frame = match self.common(frame) {
            Common::Opened(opened) => Out::Opened(opened),
            Common::Snapshot(items) => Out::Snapshot(pb::TaskChunk {
                // A snapshot has nothing to remove.
                tasks: self.split(items).0,
            }),
            Common::Synced(synced) => Out::Synced(synced),
            Common::Delta(delta) => {
                let (changed, removed) = self.split(delta.items);
                Out::Delta(pb::TaskDelta {
                    base_revision: delta.base,
                    position: delta.position,
                    changed,
                    removed,
                    more: delta.more,
                    folded_commits: delta.folded,
                })
            }
            // Tasks are watched by few at a time, and not shared.
            Common::Encoded(_) => return pb::WatchTasksResponse { frame: None },
            Common::Bookmark(bookmark) => Out::Bookmark(bookmark),
            Common::Reset(reset) => Out::Reset(reset),
            Common::Closing(closing) => Out::Closing(closing),
        };
        pb::WatchTasksResponse { frame: Some(frame) }
    }

    /// A frame of WatchErrors.
    pub(crate) fn error_frame(&self, frame: Frame<ErrorRow>) -> pb::WatchErrorsResponse {
        use watch_errors_response::Frame as Out;
        let groups = |items: Vec<ErrorRow>| {
            let groups = items.iter().map(|row| error_group(self.namespace, row));
            groups.collect()
        };
        let frame = match self.common(frame) {
            Common::Opened(opened) => Out::Opened(opened),
            Common::Snapshot(items) => Out::Snapshot(pb::ErrorChunk {
                groups: groups(items),
            }),
            Common::Synced(synced) => Out::Synced(synced),
            Common::Delta(delta) => Out::Delta(pb::ErrorDelta {
                base_revision: delta.base,
                position: delta.position,
                changed: groups(delta.items),
                more: delta.more,
                folded_commits: delta.folded,
            }),
            // Like tasks, groups are watched by few at a time.
            Common::Encoded(_) => return pb::WatchErrorsResponse { frame: None },
            Common::Bookmark(bookmark) => Out::Bookmark(bookmark),
            Common::Reset(reset) => Out::Reset(reset),
            Common::Closing(closing) => Out::Closing(closing),
        };
        pb::WatchErrorsResponse { frame: Some(frame) }
    }

    fn split(&self, items: Vec<TaskItem>) -> (Vec<pb::Task>, Vec<pb::RemovedTask>) {
        use removed_task::Reason;
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        let mut remove = |task: &str, reason: Reason, last_status| {
            removed.push(pb::RemovedTask {
                name: self.namespace.task_name(task),
                reason: reason as i32,
                last_status,
            });
        };
        for item in items {
            match item {
                TaskItem::Changed(id, revision, kept) => {
                    let row = kept.unpack(&id, revision);
                    changed.push(task(self.namespace, &row, Detail::Brief));
                }
                TaskItem::NoLongerMatches(id, status) => {
                    remove(id.as_str(), Reason::NoLongerMatches, status as i32);
                }
                TaskItem::Deleted(id, tombstone) => {
                    remove(id.as_str(), Reason::Deleted, tombstone.last_status as i32);
                }
            }
        }
        (changed, removed)
    }

    fn common<I>(&self, frame: Frame<I>) -> Common<I> {
        match frame {
            Frame::Opened {
                start,
                epoch,
                position,
                heartbeat,
            } => Common::Opened(pb::WatchOpened {
                start: match start {
                    Start::Snapshot => watch_opened::Start::Snapshot,
                    Start::Resumed => watch_opened::Start::Resumed,
                    Start::Live => watch_opened::Start::Live,
                } as i32,
                store_epoch: epoch.to_string(),
                position: self.position(position),
                heartbeat_interval: Some(duration(heartbeat)),
            }),
            Frame::Snapshot(items) => Common::Snapshot(items),
            Frame::Synced(position) => Common::Synced(pb::WatchSynced {
                position: self.position(position),
            }),
            Frame::Delta {
                base,
                position,
                items,
                more,
                folded,
            } => Common::Delta(Delta {
                base: base.wire(),
                position: position.and_then(|position| self.position(position)),
                items,
                more,
                folded: i32::try_from(folded).unwrap_or(i32::MAX),
            }),
            Frame::Encoded(delta) => Common::Encoded(delta),
            Frame::Bookmark { position, lag } => Common::Bookmark(pb::WatchBookmark {
                position: self.position(position),
                server_time: Some(timestamp(Now::read().wall_us)),
                lag_revisions: i64::try_from(lag).unwrap_or(i64::MAX),
            }),
            Frame::Reset { reason, horizon } => Common::Reset(pb::WatchReset {
                reason: match reason {
                    ResetReason::Compacted => watch_reset::Reason::Compacted,
                    ResetReason::EpochChanged => watch_reset::Reason::EpochChanged,
                    ResetReason::FilterChanged => watch_reset::Reason::FilterChanged,
                } as i32,
                compact_revision: match reason {
                    ResetReason::Compacted => horizon.wire(),
                    ResetReason::EpochChanged | ResetReason::FilterChanged => 0,
                },
            }),
            Frame::Closing {
                reason,
                reconnect_after,
            } => Common::Closing(closing(reason, reconnect_after)),
        }
    }
}

/// A frame with what all watches share put together.
enum Common<I> {
    Opened(pb::WatchOpened),
    Snapshot(Vec<I>),
    Synced(pb::WatchSynced),
    Delta(Delta<I>),
    Encoded(Bytes),
    Bookmark(pb::WatchBookmark),
    Reset(pb::WatchReset),
    Closing(pb::WatchClosing),
}

struct Delta<I> {
    base: i64,
    position: Option<pb::Position>,
    items: Vec<I>,
    more: bool,
    folded: i32,
}

/// A whole delta as WatchState sends it.
pub(crate) fn encoded_delta(
    base: Revision,
    position: Revision,
    token: Bytes,
    items: Vec<StateItem>,
    folded: u64,
) -> Bytes {
    let delta = pb::StateDelta {
        base_revision: base.wire(),
        position: Some(pb::Position {
            revision: position.wire(),
            resume_token: token,
        }),
        changes: items.into_iter().map(key_change).collect(),
        more: false,
        folded_commits: i32::try_from(folded).unwrap_or(i32::MAX),
    };
    delta.encode_to_vec().into()
}

fn key_change(item: StateItem) -> pb::KeyChange {
    use pb::key_change::Change;
    let (change, source) = match (&item.value, item.inline()) {
        (None, _) => (Change::Deleted(true), String::new()),
        (Some(value), None) => (Change::Stub(stub(value)), value.source.to_string()),
        (Some(value), Some(inline)) => (Change::Value(inline.clone()), value.source.to_string()),
    };
    pb::KeyChange {
        target: item.target,
        key: item.key.to_string(),
        mod_revision: item.revision.wire(),
        source,
        change: Some(change),
    }
}

fn closing(reason: ClosingReason, reconnect_after: std::time::Duration) -> pb::WatchClosing {
    pb::WatchClosing {
        reason: match reason {
            ClosingReason::Draining => watch_closing::Reason::Draining,
            ClosingReason::MaxAge => watch_closing::Reason::MaxAge,
        } as i32,
        reconnect_after: Some(duration(reconnect_after)),
    }
}

/// A frame of WatchLeases.
pub(crate) fn lease_frame(news: LeaseNews) -> pb::WatchLeasesResponse {
    use watch_leases_response::Frame as Out;
    let directive = |token: crate::engine::token::LeaseToken, disposition, reason| {
        Out::Directive(pb::LeaseDirective {
            lease_token: token.encode(),
            disposition: disposition as i32,
            reason,
        })
    };
    let frame = match news {
        LeaseNews::CancelRequested { token, reason } => {
            directive(token, Disposition::CancelRequested, reason)
        }
        LeaseNews::Lost { token } => directive(
            token,
            Disposition::Lost,
            "the lease is over: stop the work".to_owned(),
        ),
        LeaseNews::Bookmark => Out::Bookmark(pb::WatchBookmark {
            position: None,
            server_time: Some(timestamp(Now::read().wall_us)),
            lag_revisions: 0,
        }),
        LeaseNews::Closing {
            reason,
            reconnect_after,
        } => Out::Closing(closing(reason, reconnect_after)),
    };
    pb::WatchLeasesResponse { frame: Some(frame) }
}
