//! What a task last said of its progress: the keys `progress` and `phase` of its state.

use prost_types::Timestamp;

use super::super::show;
use crate::{
    client::{Client, decode_value, short_name},
    proto::v1::{SharedState, Task},
};

/// The keys that people read first.
const KEYS: [&str; 2] = ["progress", "phase"];
/// Larger values are not shown.
const SHOWN_VALUE_BYTES: i64 = 4 << 10;
/// A longer value is cut.
const VALUE_CHARS: usize = 60;

/// See the module.
#[derive(Debug, PartialEq)]
pub(super) struct Progress {
    /// Keys with their values.
    pub(super) text: String,
    /// When it was said. None: other keys of the state have changed since, and the server keeps the
    /// time of the last change alone.
    pub(super) time: Option<Timestamp>,
}

impl Progress {
    /// None where the task has no state, said nothing, or nothing can be read now: a timeline
    /// without it is still one.
    pub(super) async fn read(client: &Client, task: &Task) -> Option<Self> {
        // A worker reports to a state named after the task where the task names none.
        let state = match task.state_name.as_str() {
            "" => client.state_name(short_name(&task.name)),
            state => state.to_owned(),
        };
        let read = client.get_state_within(&state, &KEYS, SHOWN_VALUE_BYTES);
        let (state, _) = read.await.ok()?;
        Self::of(&state, task)
    }

    fn of(state: &SharedState, task: &Task) -> Option<Self> {
        // Several tasks may report to one state.
        let own = state.entries.iter().filter(|entry| {
            entry.stub.is_none() && (entry.source.is_empty() || entry.source == task.name)
        });
        let mut said = Vec::new();
        let mut latest = 0;
        for entry in own {
            let Ok(value) = decode_value(&entry.value) else {
                continue;
            };
            let value = show::one_line(&show::raw(&value), VALUE_CHARS);
            said.push(format!("{}={value}", entry.key));
            latest = latest.max(entry.mod_revision);
        }
        // `progress` before `phase`, as they are asked for.
        said.sort_by_key(|said| KEYS.iter().position(|key| said.starts_with(key)));
        let time = state.update_time.filter(|_| latest == state.revision);
        (!said.is_empty()).then(|| Self {
            text: said.join(" "),
            time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::encode_value, proto::v1::StateEntry};

    #[test]
    fn progress_is_the_task_s_own_and_dated_where_nothing_came_after_it() {
        let task = Task {
            name: "namespaces/default/tasks/t".to_owned(),
            ..Task::default()
        };
        let entry =
            |key: &str, value: crate::client::Value, mod_revision, source: &str| StateEntry {
                key: key.to_owned(),
                value: encode_value(&value),
                mod_revision,
                source: source.to_owned(),
                stub: None,
            };
        let mut state = SharedState {
            entries: vec![
                entry("phase", "mesh".into(), 4, &task.name),
                entry("progress", 0.5.into(), 7, &task.name),
            ],
            revision: 7,
            update_time: Some(Timestamp::default()),
            ..SharedState::default()
        };
        let progress = Progress::of(&state, &task).unwrap();
        assert_eq!(progress.text, "progress=0.5 phase=mesh");
        assert!(progress.time.is_some());
        state.revision = 8;
        assert_eq!(Progress::of(&state, &task).unwrap().time, None);
        state.entries[1].source = "namespaces/default/tasks/other".to_owned();
        assert_eq!(Progress::of(&state, &task).unwrap().text, "phase=mesh");
        state.entries.clear();
        assert_eq!(Progress::of(&state, &task), None);
    }
}
