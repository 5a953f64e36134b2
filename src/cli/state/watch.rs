//! `duite state watch`.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use clap::Args;

use super::{
    super::{
        Error,
        live::Live,
        output, show, signals,
        watching::{Look, Watching},
    },
    Target,
};
use crate::{
    client::{
        Client, StateChange, StateView, StateWatch, ViewEntry, WatchEvent, encode_value, short_name,
    },
    proto::v1::{
        KeyChange, StateChunk, StateDelta, WatchStateResponse, WatchSynced, key_change::Change,
        watch_state_response::Frame,
    },
};

/// Least time between two redraws.
const REDRAW: Duration = Duration::from_millis(100);

/// Watch a state live, until interrupted
///
/// On a terminal a table that follows; elsewhere a line KEY=VALUE for each change, after one for
/// each key there is. A state that does not exist yet is waited for. Reconnects by itself.
#[derive(Args, Debug)]
#[command(after_long_help = "\
With -o json, each line is a frame of the API's WatchStateResponse.

Examples:
  duite state watch job
  duite state watch job progress --prefix loss.
  duite state watch job -o json | jq -c '.delta.changes[]?'

Exit codes: 0 interrupted, 69 no server.")]
pub(super) struct WatchArgs {
    /// The state
    #[arg(value_name = "STATE")]
    state: Option<String>,
    /// Only these keys
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// Only keys that begin so, beside those that are named; may be repeated
    #[arg(long = "prefix", value_name = "PREFIX")]
    prefixes: Vec<String>,
}

pub(super) async fn run(client: &Client, args: WatchArgs, json: bool) -> Result<ExitCode, Error> {
    let target = Target::named(args.state)?;
    let mut live = if json { None } else { Live::on_terminal() };
    let mut watch = client.watch_state([&target.state]);
    if !args.keys.is_empty() {
        watch = watch.keys(args.keys);
    }
    for prefix in args.prefixes {
        watch = watch.prefix(prefix);
    }
    if live.is_some() {
        watch = watch.min_delta_interval(REDRAW);
    }
    let mut watch = watch.start();
    let mut interrupts = signals::Interrupts::listen()?;
    let mut watching = Watching::default();
    let mut frames = Frames::default();
    let mut lines = Lines::default();
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            () = interrupts.next() => return Ok(ExitCode::SUCCESS),
        };
        let Some(event) = event else {
            return Ok(ExitCode::SUCCESS);
        };
        let event = event?;
        let Look { is_first, note } = watching.look(&event)?;
        match (note, &mut live) {
            (Some(note), Some(live)) => live.note(&note),
            (Some(note), None) => eprintln!("{note}"),
            (None, _) => {}
        }
        if json {
            frames.print(event, is_first, &watch)?;
        } else if let Some(live) = &mut live {
            live.draw(&table(&watch))?;
        } else {
            for line in lines.of(&event, is_first, watch.view()) {
                output::line(line)?;
            }
        }
    }
}

fn table(watch: &StateWatch) -> String {
    let mut table = output::table(["KEY", "VALUE", "REVISION", "SOURCE"]);
    for (key, entry) in watch.view().iter().flat_map(|(_, keys)| keys) {
        let revision = entry.mod_revision.to_string();
        table.add_row([
            key.as_str(),
            &text(entry),
            &revision,
            short_name(&entry.source),
        ]);
    }
    output::trimmed(&table)
}

fn text(entry: &ViewEntry) -> String {
    match (entry.value(), entry.stub()) {
        (Some(value), _) => value.to_string(),
        (None, Some(stub)) => show::stub(stub),
        (None, None) => "?".to_owned(),
    }
}

/// A line for each change.
#[derive(Debug, Default)]
struct Lines {
    /// The keys that were told and not told as deleted.
    told: BTreeSet<String>,
}

impl Lines {
    fn of(
        &mut self,
        event: &WatchEvent<StateChange>,
        is_first: bool,
        view: &StateView,
    ) -> Vec<String> {
        match event {
            WatchEvent::Synced { .. } if is_first => {
                let keys = || view.iter().flat_map(|(_, keys)| keys);
                let there = keys().map(|(key, _)| key.clone()).collect();
                // Nobody says what was deleted while the view was dropped.
                let before = std::mem::replace(&mut self.told, there);
                let gone = before.difference(&self.told);
                let gone = gone.map(|key| format!("{key} deleted"));
                let values = keys().map(|(key, entry)| format!("{key}={}", text(entry)));
                gone.chain(values).collect()
            }
            WatchEvent::Changed { changes, .. } => {
                changes.iter().map(|change| self.change(change)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn change(&mut self, change: &StateChange) -> String {
        let key = &change.key;
        match &change.entry {
            Some(entry) => {
                self.told.insert(key.clone());
                format!("{key}={}", text(entry))
            }
            None => {
                self.told.remove(key);
                format!("{key} deleted")
            }
        }
    }
}

/// Events as the API's frames.
#[derive(Debug, Default)]
struct Frames {
    revision: i64,
}

impl Frames {
    fn print(
        &mut self,
        event: WatchEvent<StateChange>,
        is_first: bool,
        watch: &StateWatch,
    ) -> Result<(), Error> {
        let print = |frame| {
            output::json_line(
                "WatchStateResponse",
                &WatchStateResponse { frame: Some(frame) },
            )
        };
        match event {
            WatchEvent::Synced { position } => {
                if is_first {
                    let keys = watch.view().iter().flat_map(|(_, keys)| keys);
                    let entries =
                        keys.map(|(key, entry)| change(key, entry.mod_revision, Some(entry)));
                    let entries = entries.collect();
                    print(Frame::Snapshot(StateChunk { entries }))?;
                }
                self.revision = position.revision;
                let position = Some(position);
                print(Frame::Synced(WatchSynced { position }))
            }
            WatchEvent::Changed {
                changes,
                position,
                folded_commits,
            } => {
                let changes = changes
                    .iter()
                    .map(|one| change(&one.key, one.mod_revision, one.entry.as_ref()));
                let delta = StateDelta {
                    base_revision: std::mem::replace(&mut self.revision, position.revision),
                    position: Some(position),
                    changes: changes.collect(),
                    folded_commits,
                    ..StateDelta::default()
                };
                print(delta.into())
            }
            WatchEvent::Reset { reset } => print(Frame::Reset(reset.unwrap_or_default())),
            WatchEvent::Reconnecting { .. } => Ok(()),
        }
    }
}

fn change(key: &str, mod_revision: i64, entry: Option<&ViewEntry>) -> KeyChange {
    let change = entry.map(|entry| match (entry.value(), entry.stub()) {
        (Some(value), _) => Change::Value(encode_value(&value)),
        (None, stub) => Change::Stub(stub.cloned().unwrap_or_default()),
    });
    KeyChange {
        target: 0,
        key: key.to_owned(),
        change: Some(change.unwrap_or(Change::Deleted(true))),
        mod_revision,
        source: entry.map(|entry| entry.source.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::Position;

    #[test]
    fn after_a_reset_the_keys_that_are_gone_are_told() {
        let synced = WatchEvent::Synced {
            position: Position::default(),
        };
        let told = ["a", "b"].map(str::to_owned).into();
        let mut lines = Lines { told };
        let empty = StateView::default();
        let reset = WatchEvent::Reset { reset: None };
        assert!(lines.of(&reset, false, &empty).is_empty());
        assert_eq!(lines.of(&synced, true, &empty), ["a deleted", "b deleted"]);
        assert!(lines.of(&synced, true, &empty).is_empty());
    }
}
