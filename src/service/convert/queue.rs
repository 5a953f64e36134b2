//! Queues and their settings.

use std::time::Duration;

use prost_types::FieldMask;

use super::bounds::duration;
use crate::{
    domain::{Error, NamespaceId, task::Status},
    engine::{QueueView, clock::Now, command::QueueChange},
    proto::v1 as pb,
};

/// A queue as it stands.
pub(crate) fn queue(namespace: &NamespaceId, view: &QueueView) -> pb::Queue {
    let count = |status| i64::try_from(view.row.count(status)).unwrap_or(i64::MAX);
    let limit = |limit| i32::try_from(limit).unwrap_or(i32::MAX);
    let settings = view.row.settings;
    let wait = |since_us| {
        let us = Now::read().wall_us.saturating_sub(since_us);
        duration(Duration::from_micros(u64::try_from(us).unwrap_or_default()))
    };
    pb::Queue {
        name: namespace.queue_name(view.queue.as_str()),
        settings: Some(pb::QueueSettings {
            paused: settings.paused,
            max_running: limit(settings.max_running),
            max_running_per_key: limit(settings.max_running_per_key),
        }),
        scheduled: count(Status::Scheduled),
        queued: count(Status::Queued),
        running: count(Status::Running),
        oldest_wait: view.oldest_us.map(wait),
        succeeded: count(Status::Succeeded),
        failed: count(Status::Failed),
        cancelled: count(Status::Cancelled),
    }
}

/// The change that a request asks for: all settings, or those that the mask names.
pub(crate) fn queue_change(
    settings: Option<pb::QueueSettings>,
    mask: Option<FieldMask>,
) -> Result<QueueChange, Error> {
    let settings = settings.unwrap_or_default();
    let whole = QueueChange {
        paused: Some(settings.paused),
        max_running: Some(limit("settings.max_running", settings.max_running)?),
        max_running_per_key: Some(limit(
            "settings.max_running_per_key",
            settings.max_running_per_key,
        )?),
    };
    let paths = mask.unwrap_or_default().paths;
    if paths.is_empty() {
        return Ok(whole);
    }
    let mut change = QueueChange::default();
    for path in paths {
        match path.as_str() {
            "paused" => change.paused = whole.paused,
            "max_running" => change.max_running = whole.max_running,
            "max_running_per_key" => change.max_running_per_key = whole.max_running_per_key,
            other => {
                return Err(Error::field(
                    "update_mask",
                    format!("may name paused, max_running and max_running_per_key, got {other:?}"),
                ));
            }
        }
    }
    Ok(change)
}

fn limit(field: &'static str, asked: i32) -> Result<u32, Error> {
    u32::try_from(asked)
        .map_err(|_| Error::field(field, format!("must not be negative, got {asked}")))
}
