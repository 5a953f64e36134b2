//! `duite errors`: what goes wrong, grouped; live with `--watch`, one group with `show`.

mod rows;
mod show;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use futures_util::TryStreamExt;

use self::rows::Newest;
use super::{
    Error,
    connect::{ConnectArgs, OutputArgs},
    output,
    watching::PaceArgs,
};
use crate::client::Client;

/// Groups shown where nothing else is said.
const SHOWN: u32 = 100;

/// See what goes wrong: failures of tasks and jobs, grouped
///
/// Without a command: the groups, the last to occur first. Each stands for one task type, type of
/// failure and place in the task's own code, however often it failed so.
#[derive(Args, Debug)]
#[command(
    override_usage = "duite errors [OPTIONS]\n       duite errors show [OPTIONS] <FINGERPRINT>"
)]
#[command(after_long_help = "\
With -o json, each line is an ErrorGroup of the API; with --watch, a frame of its WatchErrorsResponse.

Examples:
  duite errors
  duite errors --watch
  duite errors -o json --limit 1000 | jq -r 'select(.count > 9) | .taskType'
  duite errors show 3fa9c1

Exit codes: 0 shown, or interrupted; 1 refused; 69 no server.")]
pub(super) struct ErrorsCommand {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// At most so many [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Stay and show what changes, until interrupted
    #[arg(short, long, conflicts_with = "limit")]
    watch: bool,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    Show(show::ShowArgs),
}

impl ErrorsCommand {
    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        if self.pace.is_given() && !self.watch {
            return Err(Error::usage("--every and --updates-only go with --watch"));
        }
        if self.command.is_some() && (self.watch || self.limit.is_some()) {
            return Err(Error::usage(
                "`show` shows one error as it is now: it takes no --watch and no --limit",
            ));
        }
        let client = self.connect.client()?;
        let json = self.output.is_json();
        if let Some(Command::Show(args)) = self.command {
            show::run(&client, &args, json).await?;
        } else if self.watch {
            return watch::run(&client, self.pace, json).await;
        } else {
            list(&client, self.limit.unwrap_or(SHOWN), json).await?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(client: &Client, limit: u32, json: bool) -> Result<(), Error> {
    let mut newest = Newest::of(limit as usize);
    let mut groups = std::pin::pin!(client.error_groups());
    while let Some(mut group) = groups.try_next().await? {
        // A table has no place for what is large.
        if let Some(failure) = group.last_failure.as_mut().filter(|_| !json) {
            failure.stack_trace = String::new();
            failure.cause = None;
        }
        newest.add(group);
    }
    let (groups, more) = newest.sorted();
    if json {
        groups
            .iter()
            .try_for_each(|group| output::json_line("ErrorGroup", group))?;
    } else if groups.is_empty() {
        eprintln!("no errors");
    } else {
        output::line(output::fitted(&output::trimmed(&rows::table(&groups))))?;
    }
    if more {
        eprintln!("there are more: --limit shows them");
    }
    Ok(())
}
