//! `duite state`: get, set, add, delete, list, settings, watch.

mod assign;
mod get;
mod settings;
mod target;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures_util::{StreamExt, TryStreamExt};

use self::target::Target;
use super::{
    Error,
    connect::{ConnectArgs, OutputArgs},
    output, show,
};
use crate::{
    client::{Client, Update, short_name},
    domain::Reason,
    proto::v1::{RejectedKey, UpdateStateResponse},
};

/// Of a key that is too long, what is shown.
const KEY_CHARS: usize = 64;

/// Read, change and watch shared state
///
/// Inside a program that a worker runs (type exec), STATE may be left out, or written as a dot
/// before keys: it is then the task's own state, and a write is refused once the attempt is over.
#[derive(Args, Debug)]
pub(super) struct StateCommand {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Get(get::GetArgs),
    Set(SetArgs),
    Add(AddArgs),
    Delete(DeleteArgs),
    List(ListArgs),
    Settings(settings::SettingsArgs),
    Watch(watch::WatchArgs),
}

/// Set keys, all in one commit
///
/// KEY=VALUE takes a number, true, false, null or a quoted text for what it is and anything else
/// for text; KEY:=JSON takes any JSON and nothing else.
#[derive(Args, Debug)]
#[command(override_usage = "duite state set [OPTIONS] [STATE] <KEY=VALUE>...")]
#[command(after_long_help = "\
Examples:
  duite state set job progress=0.4 phase=mesh note=\"two words\"
  duite state set job code='\"007\"' sizes:='[1, 2, 3]'
  duite state set job owner=me --expect-revision 42
  duite state set progress=0.5          (inside a program that a worker runs)

Exit codes: 0 it is on the server's disk, 1 refused, 2 wrong options, 69 no server.")]
struct SetArgs {
    /// The state, then the keys
    #[arg(value_name = "[STATE] KEY=VALUE", required = true)]
    words: Vec<String>,
    /// Only if the state's revision is this one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    expect_revision: Option<i64>,
}

/// Add to keys, all in one commit
///
/// Many may add to one key at once: nothing is lost. A missing key counts as 0. A key that holds an
/// integer takes integers, one that holds a number takes numbers.
#[derive(Args, Debug)]
#[command(override_usage = "duite state add [OPTIONS] [STATE] <KEY=NUMBER>...")]
#[command(after_long_help = "\
Examples:
  duite state add totals files=1 bytes=4096
  duite state add totals weight=0.5

Exit codes: 0 it is on the server's disk, 1 refused, 2 wrong options, 69 no server.")]
struct AddArgs {
    /// The state, then the keys
    #[arg(value_name = "[STATE] KEY=NUMBER", required = true)]
    words: Vec<String>,
}

/// Delete keys, or a whole state
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite state delete job phase note
  duite state delete job

Exit codes: 0 deleted, 3 there is no such state, 69 no server.")]
struct DeleteArgs {
    /// The state
    #[arg(value_name = "STATE")]
    state: Option<String>,
    /// The keys; none: the state as a whole
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// Only if the state's revision is this one
    #[arg(long, value_name = "N", requires = "keys", value_parser = clap::value_parser!(i64).range(1..))]
    expect_revision: Option<i64>,
}

/// List the states, with what the server does for each
///
/// WRITERS are open push streams and QUEUED the batches they wait for; MERGES/S and BATCHES/S are
/// averages of the last seconds; SNAPSHOT+ counts the journal entries that a restart would replay on
/// top of the state's last snapshot. INTERVAL and RETENTION are its settings.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite state list
  duite state list -o json")]
struct ListArgs {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl StateCommand {
    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        let client = self.connect.client()?;
        let json = self.output.is_json();
        match self.command {
            Command::Get(args) => get::run(&client, args, json).await?,
            Command::Set(args) => {
                let (target, words) = Target::before_assignments(args.words, "KEY=VALUE")?;
                let updates = words.iter().map(|word| assign::set(word));
                let updates = updates.collect::<Result<_, _>>()?;
                update(&client, target, updates, args.expect_revision, json).await?;
            }
            Command::Add(args) => {
                let (target, words) = Target::before_assignments(args.words, "KEY=NUMBER")?;
                let updates = words.iter().map(|word| assign::add(word));
                let updates = updates.collect::<Result<_, _>>()?;
                update(&client, target, updates, None, json).await?;
            }
            Command::Delete(args) => delete(&client, args, json).await?,
            Command::List(args) => list(&client, &args, json).await?,
            Command::Settings(args) => settings::run(&client, args, json).await?,
            Command::Watch(args) => return watch::run(&client, args, json).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn update(
    client: &Client,
    target: Target,
    updates: Vec<Update>,
    expected_revision: Option<i64>,
    json: bool,
) -> Result<(), Error> {
    let keys = updates.len();
    let mut request = client.update_state(&target.state);
    for update in updates {
        request = request.update(update);
    }
    if let Some(lease) = target.lease {
        request = request.lease_token(lease);
    }
    if let Some(revision) = expected_revision {
        request = request.expected_revision(revision);
    }
    let answer = request.send().await?;
    if json {
        output::json_line("UpdateStateResponse", &answer)?;
    }
    rejected(&answer, keys)
}

/// The other keys of the batch took effect all the same, but a script must know.
fn rejected(answer: &UpdateStateResponse, of: usize) -> Result<(), Error> {
    let rejected = |rejected: &RejectedKey| {
        let RejectedKey { key, reason, .. } = rejected;
        let key: String = key.chars().take(KEY_CHARS).collect();
        let known = Reason::ALL.iter().find(|known| known.as_str() == reason);
        // A newer server may have reasons of its own.
        let meaning = known.map_or("", |known| known.description().trim());
        let meaning = meaning.trim_start_matches("Rejected key: ");
        format!("key `{key}` was not accepted: {meaning} ({reason})")
    };
    match answer.rejected.as_slice() {
        [] => Ok(()),
        keys => {
            let all: Vec<String> = keys.iter().map(rejected).collect();
            let error = Error::failed(all.join("; "));
            Err(if keys.len() < of {
                error.hint("the other keys took effect")
            } else {
                error
            })
        }
    }
}

async fn delete(client: &Client, args: DeleteArgs, json: bool) -> Result<(), Error> {
    let target = Target::named(args.state)?;
    if let Some(first) = args.keys.first() {
        // An update makes the state where there is none.
        client.get_state_within(&target.state, &[first], 1).await?;
        let updates = args.keys.into_iter().map(Update::delete).collect();
        return update(client, target, updates, args.expect_revision, json).await;
    }
    let position = client.delete_state(&target.state, None).await?;
    if json {
        output::json_line("Position", &position)?;
    }
    Ok(())
}

async fn list(client: &Client, args: &ListArgs, json: bool) -> Result<(), Error> {
    let limit = args.limit as usize;
    // One more than asked for tells whether there are more.
    let states = client.all_states().take(limit.saturating_add(1));
    let mut states: Vec<_> = states.try_collect().await?;
    let more = states.len() > limit;
    states.truncate(limit);
    if json {
        states
            .iter()
            .try_for_each(|state| output::json_line("SharedState", state))?;
    } else if states.is_empty() {
        eprintln!("no states");
    } else {
        let mut table = output::table([
            "STATE",
            "REVISION",
            "CHANGED",
            "WRITERS",
            "QUEUED",
            "MERGES/S",
            "BATCHES/S",
            "SNAPSHOT+",
            "INTERVAL",
            "RETENTION",
        ]);
        for state in &states {
            // An older server does not tell.
            let monitor = state.monitor.unwrap_or_default();
            let (interval, retention) = settings::shown(state);
            table.add_row([
                short_name(&state.name).to_owned(),
                state.revision.to_string(),
                show::since(state.update_time.as_ref()),
                monitor.writers.to_string(),
                monitor.queued_batches.to_string(),
                format!("{:.1}", monitor.merges_per_second),
                format!("{:.1}", monitor.batches_per_second),
                monitor.entries_since_snapshot.to_string(),
                interval,
                retention,
            ]);
        }
        output::line(output::trimmed(&table))?;
    }
    if more {
        eprintln!("there are more: --limit shows them");
    }
    Ok(())
}
