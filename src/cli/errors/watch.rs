//! `duite errors --watch`.

use std::{collections::BTreeMap, process::ExitCode};

use super::{
    super::{
        Error,
        live::Live,
        output,
        watching::{self, PaceArgs, Shown, Told},
    },
    rows,
};
use crate::{
    client::{Client, WatchEvent},
    proto::v1::{
        ErrorChunk, ErrorDelta, ErrorGroup, WatchErrorsResponse, watch_errors_response::Frame,
    },
};

pub(super) async fn run(client: &Client, pace: PaceArgs, json: bool) -> Result<ExitCode, Error> {
    let live = if json { None } else { Live::on_terminal() };
    let watch = pace.of(client.watch_errors(), live.is_some()).start();
    watching::show(watch, live, json, Groups).await
}

type View = BTreeMap<String, ErrorGroup>;

/// Groups by fingerprint.
struct Groups;

impl Groups {
    fn newest_first(view: &View) -> Vec<&ErrorGroup> {
        let mut groups: Vec<_> = view.values().collect();
        rows::sort(&mut groups);
        groups
    }
}

impl Shown<View> for Groups {
    type Response = WatchErrorsResponse;
    const RESPONSE: &'static str = "WatchErrorsResponse";

    fn response(&self, told: Told<'_, View>) -> WatchErrorsResponse {
        let frame = match told {
            Told::Snapshot(view) => {
                let groups = Self::newest_first(view).into_iter().cloned().rev();
                let groups = groups.collect();
                Frame::Snapshot(ErrorChunk { groups })
            }
            Told::Synced(synced) => Frame::Synced(synced),
            Told::Delta {
                base_revision,
                position,
                changes,
                folded_commits,
            } => Frame::Delta(ErrorDelta {
                base_revision,
                position,
                changed: changes,
                folded_commits,
                ..ErrorDelta::default()
            }),
            Told::Reset(reset) => Frame::Reset(reset),
        };
        WatchErrorsResponse { frame: Some(frame) }
    }

    fn table(&self, view: &View) -> String {
        let table = output::trimmed(&rows::table(Self::newest_first(view)));
        let count = view.len();
        let noun = if count == 1 { "error" } else { "errors" };
        format!("{table}\n{count} {noun}")
    }

    fn lines(
        &mut self,
        event: &WatchEvent<ErrorGroup>,
        is_first: bool,
        view: &View,
    ) -> Vec<String> {
        match event {
            // The last to occur comes last, and what occurs later follows it.
            WatchEvent::Synced { .. } if is_first => {
                let groups = Self::newest_first(view).into_iter().rev();
                groups.map(rows::line).collect()
            }
            WatchEvent::Changed { changes, .. } => changes.iter().map(rows::line).collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::proto::v1::Position;

    fn group(fingerprint: &str, seconds: i64) -> ErrorGroup {
        ErrorGroup {
            fingerprint: fingerprint.to_owned(),
            task_type: "t".to_owned(),
            count: 1,
            last_time: Some(Timestamp { seconds, nanos: 0 }),
            ..ErrorGroup::default()
        }
    }

    #[test]
    fn the_last_to_occur_stands_first_on_a_terminal_and_last_in_lines() {
        let groups = [group("a", 2), group("b", 3), group("c", 1)];
        let view: View = groups
            .into_iter()
            .map(|group| (group.fingerprint.clone(), group))
            .collect();
        let table = Groups.table(&view);
        let first: Vec<_> = table.lines().map(|line| &line[..1]).collect();
        assert_eq!(first, ["F", "b", "a", "c", "3"]);
        let synced = WatchEvent::Synced {
            position: Position::default(),
        };
        let lines = Groups.lines(&synced, true, &view);
        assert_eq!(lines, ["c 1x t", "a 1x t", "b 1x t"]);
        assert!(Groups.lines(&synced, false, &view).is_empty());
        let Some(Frame::Snapshot(chunk)) = Groups.response(Told::Snapshot(&view)).frame else {
            panic!("a snapshot is told as one");
        };
        assert_eq!(chunk.groups[2].fingerprint, "b");
    }
}
