//! `duite state watch`.

use std::{collections::BTreeSet, process::ExitCode};

use clap::Args;

use super::{
    super::{
        Error,
        live::Live,
        output, show,
        watching::{self, PaceArgs, Shown, Told},
    },
    Target,
};
use crate::{
    client::{Client, StateChange, StateView, ViewEntry, WatchEvent, encode_value, short_name},
    proto::v1::{
        KeyChange, StateChunk, StateDelta, WatchStateResponse, key_change::Change,
        watch_state_response::Frame,
    },
};

/// Watch states live, until interrupted
///
/// On a terminal a table that follows; elsewhere a line KEY=VALUE for each change, after one for
/// each key there is. A state that does not exist yet is waited for. Reconnects by itself. Of more
/// than one state, keys are shown as STATE/KEY.
#[derive(Args, Debug)]
#[command(after_long_help = "\
With -o json, each line is a frame of the API's WatchStateResponse.

Examples:
  duite state watch job
  duite state watch job progress --prefix loss.
  duite state watch job-1 --and job-2 --and totals --every 1s
  duite state watch job --updates-only --inline-limit 1024
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
    /// Another state on the same stream; may be repeated, up to 64 in all
    #[arg(long = "and", value_name = "STATE")]
    others: Vec<String>,
    #[command(flatten)]
    pace: PaceArgs,
    /// Show larger values by their size alone; at most 65536, which is the default
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(i64).range(1..))]
    inline_limit: Option<i64>,
}

pub(super) async fn run(client: &Client, args: WatchArgs, json: bool) -> Result<ExitCode, Error> {
    let target = Target::named(args.state)?;
    let live = if json { None } else { Live::on_terminal() };
    let mut states = vec![target.state];
    states.extend(args.others);
    let mut watch = client.watch_state(&states);
    if !args.keys.is_empty() {
        watch = watch.keys(args.keys);
    }
    for prefix in args.prefixes {
        watch = watch.prefix(prefix);
    }
    if let Some(bytes) = args.inline_limit {
        watch = watch.inline_limit_bytes(bytes);
    }
    let watch = args.pace.of(watch, live.is_some()).start();
    let shown = Lines {
        scope: Scope { states },
        told: BTreeSet::new(),
    };
    watching::show(watch, live, json, shown).await
}

/// The states that are watched.
#[derive(Debug)]
struct Scope {
    states: Vec<String>,
}

impl Scope {
    /// A key as it is shown: with its state where there are several.
    fn label(&self, state: &str, key: &str) -> String {
        match self.states.len() {
            1 => key.to_owned(),
            _ => format!("{}/{key}", short_name(state)),
        }
    }

    /// The place of a state in the request.
    fn target(&self, state: &str) -> u32 {
        let mut states = self.states.iter();
        let place = states.position(|asked| short_name(asked) == short_name(state));
        u32::try_from(place.unwrap_or_default()).unwrap_or_default()
    }

    /// Every key there is, with its label.
    fn keys<'a>(
        &'a self,
        view: &'a StateView,
    ) -> impl Iterator<Item = (String, &'a ViewEntry)> + 'a {
        view.iter().flat_map(move |(state, keys)| {
            let keys = keys.iter();
            keys.map(move |(key, entry)| (self.label(state, key), entry))
        })
    }
}

fn text(entry: &ViewEntry) -> String {
    match (entry.value(), entry.stub()) {
        (Some(value), _) => value.to_string(),
        (None, Some(stub)) => show::stub(stub),
        (None, None) => "?".to_owned(),
    }
}

/// How it is shown: elsewhere than on a terminal, a line for each change.
#[derive(Debug)]
struct Lines {
    scope: Scope,
    /// The keys that were told and not told as deleted.
    told: BTreeSet<String>,
}

impl Lines {
    fn change(&mut self, change: &StateChange) -> String {
        let key = self.scope.label(&change.state, &change.key);
        match &change.entry {
            Some(entry) => {
                let line = format!("{key}={}", text(entry));
                self.told.insert(key);
                line
            }
            None => {
                self.told.remove(&key);
                format!("{key} deleted")
            }
        }
    }
}

impl Shown<StateView> for Lines {
    type Response = WatchStateResponse;
    const RESPONSE: &'static str = "WatchStateResponse";

    fn response(&self, told: Told<'_, StateView>) -> WatchStateResponse {
        let frame = match told {
            Told::Snapshot(view) => {
                let entries = view.iter().flat_map(|(state, keys)| {
                    let target = self.scope.target(state);
                    let keys = keys.iter();
                    keys.map(move |(key, entry)| {
                        change(target, key, entry.mod_revision, Some(entry))
                    })
                });
                let entries = entries.collect();
                Frame::Snapshot(StateChunk { entries })
            }
            Told::Synced(synced) => Frame::Synced(synced),
            Told::Delta {
                base_revision,
                position,
                changes,
                folded_commits,
            } => {
                let changes = changes.iter().map(|one| {
                    let target = self.scope.target(&one.state);
                    change(target, &one.key, one.mod_revision, one.entry.as_ref())
                });
                let delta = StateDelta {
                    base_revision,
                    position,
                    changes: changes.collect(),
                    folded_commits,
                    ..StateDelta::default()
                };
                delta.into()
            }
            Told::Reset(reset) => Frame::Reset(reset),
        };
        WatchStateResponse { frame: Some(frame) }
    }

    fn table(&self, view: &StateView) -> String {
        let mut table = output::table(["KEY", "VALUE", "REVISION", "SOURCE"]);
        for (key, entry) in self.scope.keys(view) {
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

    fn lines(
        &mut self,
        event: &WatchEvent<StateChange>,
        is_first: bool,
        view: &StateView,
    ) -> Vec<String> {
        match event {
            WatchEvent::Synced { .. } if is_first => {
                let keys = || self.scope.keys(view);
                let there = keys().map(|(key, _)| key).collect();
                let values = keys().map(|(key, entry)| format!("{key}={}", text(entry)));
                let values: Vec<_> = values.collect();
                // Nobody says what was deleted while the view was dropped.
                let before = std::mem::replace(&mut self.told, there);
                let gone = before.difference(&self.told);
                let gone = gone.map(|key| format!("{key} deleted"));
                gone.chain(values).collect()
            }
            WatchEvent::Changed { changes, .. } => {
                changes.iter().map(|change| self.change(change)).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn change(target: u32, key: &str, mod_revision: i64, entry: Option<&ViewEntry>) -> KeyChange {
    let change = entry.map(|entry| match (entry.value(), entry.stub()) {
        (Some(value), _) => Change::Value(encode_value(&value)),
        (None, stub) => Change::Stub(stub.cloned().unwrap_or_default()),
    });
    KeyChange {
        target,
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
        let scope = Scope {
            states: vec!["s".to_owned()],
        };
        let mut lines = Lines { scope, told };
        let empty = StateView::default();
        let reset = WatchEvent::Reset { reset: None };
        assert!(lines.lines(&reset, false, &empty).is_empty());
        assert_eq!(
            lines.lines(&synced, true, &empty),
            ["a deleted", "b deleted"]
        );
        assert!(lines.lines(&synced, true, &empty).is_empty());
    }

    #[test]
    fn of_several_states_each_key_says_whose_it_is() {
        let scope = Scope {
            states: vec!["a".to_owned(), "namespaces/n/states/b".to_owned()],
        };
        assert_eq!(scope.label("namespaces/n/states/b", "k"), "b/k");
        assert_eq!(scope.target("namespaces/n/states/b"), 1);
        assert_eq!(scope.target("namespaces/n/states/a"), 0);
    }
}
