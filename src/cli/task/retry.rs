//! `duite task retry`.

use std::process::ExitCode;

use clap::Args;

use super::{
    super::{Error, output},
    FilterArgs,
};
use crate::{
    client::{Client, short_name},
    proto::v1::{Task, TaskFilter},
};

/// Names that one call takes.
const MAX_NAMES: usize = 256;

/// Repeat failed and cancelled tasks
///
/// Each becomes a new task with the same type, queue, input, labels, policy and state, ready at
/// once; the one it repeats stays as it is. A task is repeated once: with a filter, those that were
/// repeated already are left out, so that the same command can be used again. A repetition that
/// failed too is repeated like any other.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Prints a line for each: the task, and the one that repeats it.

Examples:
  duite task retry nightly
  duite task retry --queue gpu --label batch=7
  duite task retry --all --status failed

Exit codes: 0 all that were meant are repeated, 1 some are not, 2 wrong options, 69 no server.")]
pub(super) struct RetryArgs {
    /// The tasks
    #[arg(value_name = "TASK", conflicts_with_all = ["queues", "statuses", "labels", "trace", "all"])]
    tasks: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every failed or cancelled task
    #[arg(long)]
    all: bool,
    /// A UUID: the same command again tells the same tasks [default: a new one]
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
}

pub(super) async fn run(client: &Client, args: RetryArgs, json: bool) -> Result<ExitCode, Error> {
    let request_id = args
        .request_id
        .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let mut told = Told {
        json,
        repeated: 0,
        refused: 0,
    };
    if args.tasks.is_empty() {
        if args.filter.is_empty() && !args.all {
            return Err(Error::usage("nothing says which tasks to repeat").hint(
                "name them, choose with --queue, --status, --label or --trace, or say --all",
            ));
        }
        let filter = args.filter.filter();
        let mut page_token = String::new();
        loop {
            let page = client.retry_page(filter.clone(), &request_id, &page_token);
            let page = page.await?;
            told.tell(page.results)?;
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    for names in args.tasks.chunks(MAX_NAMES) {
        let filter = TaskFilter {
            names: names.iter().map(|name| client.task_name(name)).collect(),
            ..TaskFilter::default()
        };
        let page = client.retry_page(filter, &request_id, "").await?;
        told.tell(page.results)?;
    }
    if told.repeated == 0 && told.refused == 0 {
        eprintln!("no task to repeat");
    }
    Ok(if told.refused == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Told {
    json: bool,
    repeated: usize,
    refused: usize,
}

impl Told {
    fn tell(&mut self, results: Vec<Result<Task, crate::client::Error>>) -> Result<(), Error> {
        for result in results {
            match result {
                Ok(task) => {
                    self.repeated += 1;
                    if self.json {
                        output::json_line("Task", &task)?;
                    } else {
                        let (old, new) = (short_name(&task.retry_of), short_name(&task.name));
                        output::line(format!("{old} -> {new}"))?;
                    }
                }
                Err(error) => {
                    self.refused += 1;
                    eprintln!("{}", Error::from(error));
                }
            }
        }
        Ok(())
    }
}
