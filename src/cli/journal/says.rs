//! An entry of the journal in a few words.

use std::collections::BTreeSet;

use serde_json::json;

use crate::{
    domain::{
        Entry, NamespaceId, Uid,
        entry::QueueSettings,
        state::{StateDelta, StateSnapshot},
        task::{Payload, Task},
    },
    journal::Committed,
};

/// Keys of an update that are named.
const KEYS: usize = 8;

/// One line for an entry.
pub(super) fn line(
    namespace: &NamespaceId,
    committed: &Committed,
    full: bool,
    json: bool,
) -> String {
    let Committed {
        revision,
        entry,
        bytes,
    } = committed;
    let (kind, entity) = subject(entry);
    let says = if full {
        format!("{entry:?}")
    } else {
        says(entry)
    };
    if json {
        return json!({
            "namespace": namespace.to_string(),
            "revision": revision.0,
            "kind": kind,
            "entity": entity,
            "bytes": bytes,
            "says": says,
        })
        .to_string();
    }
    format!("{namespace} {revision} {kind} {entity} {bytes} {says}")
}

/// The kind of an entry and what it changes.
fn subject(entry: &Entry) -> (&'static str, String) {
    match entry {
        Entry::Task(task) => ("task", task.id.clone()),
        Entry::NewTask(new) => ("task", new.task.id.clone()),
        Entry::TaskRemoved(removed) => ("task-removed", removed.id.clone()),
        Entry::StateDelta(delta) => ("state-delta", delta.state.clone()),
        Entry::StateSnapshot(snapshot) => ("state-snapshot", snapshot.state.clone()),
        Entry::StateValue(value) => ("state-value", value.state.clone()),
        Entry::Instance(instance) => {
            let uid = Uid::from_bytes(&instance.uid).unwrap_or_default();
            ("worker-instance", uid.to_string())
        }
        Entry::Queue(queue) => ("queue", queue.name.clone()),
        Entry::ErrorGroup(group) => ("error-group", group.fingerprint().to_string()),
        Entry::Horizon(_) => ("horizon", "-".to_owned()),
    }
}

fn says(entry: &Entry) -> String {
    match entry {
        Entry::Task(task) => task_says(task),
        Entry::NewTask(new) => task_says(&new.task),
        Entry::TaskRemoved(removed) => format!("was {}", removed.last_status()),
        Entry::StateDelta(delta) => delta_says(delta),
        Entry::StateSnapshot(snapshot) => snapshot_says(snapshot),
        Entry::StateValue(value) => format!("a value of {} bytes", value.value.len()),
        Entry::Instance(instance) => format!(
            "worker {:?}, {} leases{}",
            instance.worker_id,
            instance.leases.len(),
            if instance.expired { ", expired" } else { "" }
        ),
        Entry::Queue(queue) => queue_says(&queue.settings),
        Entry::ErrorGroup(group) => format!(
            "{} times {:?} of type {:?} at {:?}",
            group.count, group.failure_type, group.task_type, group.location
        ),
        Entry::Horizon(horizon) => format!("forgets what was removed up to {}", horizon.revision),
    }
}

fn queue_says(settings: &QueueSettings) -> String {
    let paused = if settings.paused { "paused, " } else { "" };
    format!(
        "{paused}max running {}, per key {}",
        settings.max_running, settings.max_running_per_key
    )
}

fn task_says(task: &Task) -> String {
    let mut says = format!(
        "{} type {:?} queue {:?}",
        task.status(),
        task.r#type,
        task.queue
    );
    if let Some(attempt) = task.attempts.last() {
        says.push_str(&format!(", attempt {}", attempt.number));
        if task.running().is_some() {
            says.push_str(&format!(" on {:?}", attempt.worker_id));
        }
    }
    let mut payload = |name: &str, payload: &Option<Payload>| {
        if let Some(payload) = payload {
            says.push_str(&format!(", {name} {} bytes", payload.data.len()));
        }
    };
    payload("input", &task.input);
    payload("output", &task.output);
    says
}

fn delta_says(delta: &StateDelta) -> String {
    let ops = delta.parts.iter().flat_map(|part| &part.ops);
    let keys: BTreeSet<&str> = ops.map(|op| op.key.as_str()).collect();
    let mut says = format!("{} writers, {} keys", delta.parts.len(), keys.len());
    if !keys.is_empty() {
        let named: Vec<_> = keys
            .iter()
            .take(KEYS)
            .map(|key| format!("{key:?}"))
            .collect();
        let more = if keys.len() > KEYS { ", …" } else { "" };
        says.push_str(&format!(": {}{more}", named.join(", ")));
    }
    if delta.settings.is_some() {
        says.push_str(", settings");
    }
    says
}

fn snapshot_says(snapshot: &StateSnapshot) -> String {
    if !snapshot.alive {
        return "deleted".to_owned();
    }
    format!(
        "{} keys, {} writers",
        snapshot.entries.len(),
        snapshot.writers.len()
    )
}
