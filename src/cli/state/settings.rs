//! `duite state settings`.

use std::time::Duration;

use clap::Args;
use tonic::Code;

use super::{
    super::{Error, output},
    Target,
};
use crate::{
    client::Client,
    proto::v1::{SharedState, StateSettings},
};

/// Show or change how a state behaves
///
/// Without options the settings are shown. With them those that are named change and the others
/// stay; a state that does not stand is created, so that they can be set before the first write.
/// They are deleted with the state.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite state settings job
  duite state settings job --merge-interval 200ms --retention 1h
  duite state settings job --merge-interval 0s      (merge at once again)
  duite state settings job --retention 0s           (keep it for ever again)

Exit codes: 0 shown or on the server's disk, 1 refused, 3 there is no such state, 69 no server.")]
pub(super) struct SettingsArgs {
    /// The state
    #[arg(value_name = "STATE")]
    state: Option<String>,
    /// Least time between two merges of what StateQueues push, at most 5s; 0s: none
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    merge_interval: Option<Duration>,
    /// Delete the state when nobody has written to it for so long; 0s: never
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    retention: Option<Duration>,
}

pub(super) async fn run(client: &Client, args: SettingsArgs, json: bool) -> Result<(), Error> {
    let target = Target::named(args.state)?;
    // No key is empty, so no entry comes along.
    let found = client.get_state(&target.state, &[""]).await;
    let state = if args.merge_interval.is_none() && args.retention.is_none() {
        found?.0
    } else {
        let mut settings = match found {
            Ok((state, _)) => state.settings.unwrap_or_default(),
            Err(error) if error.code() == Code::NotFound => StateSettings::default(),
            Err(error) => return Err(error.into()),
        };
        change(
            &mut settings.merge_interval,
            "merge-interval",
            args.merge_interval,
        )?;
        change(&mut settings.retention, "retention", args.retention)?;
        client
            .update_state_settings(&target.state, settings)
            .await?
    };
    if json {
        return output::json_line("SharedState", &state);
    }
    let (interval, retention) = shown(&state);
    let or = |text: String, default: &str| {
        if text.is_empty() {
            default.to_owned()
        } else {
            text
        }
    };
    output::line(format!(
        "merge interval  {}\nretention       {}",
        or(interval, "none: merged at once"),
        or(retention, "none: kept until deleted"),
    ))
}

fn change(
    setting: &mut Option<prost_types::Duration>,
    name: &str,
    wanted: Option<Duration>,
) -> Result<(), Error> {
    if let Some(wanted) = wanted {
        let wire = prost_types::Duration::try_from(wanted);
        let wire =
            wire.map_err(|_| Error::usage(format!("--{name} is longer than can be said")))?;
        *setting = Some(wire);
    }
    Ok(())
}

/// Merge interval and retention; empty where a state has the default.
pub(super) fn shown(state: &SharedState) -> (String, String) {
    let settings = state.settings.unwrap_or_default();
    let text = |setting: Option<prost_types::Duration>| {
        let time = setting.and_then(|setting| Duration::try_from(setting).ok());
        let time = time.filter(|time| !time.is_zero());
        time.map_or_else(String::new, |time| {
            humantime::format_duration(time).to_string()
        })
    };
    (text(settings.merge_interval), text(settings.retention))
}
