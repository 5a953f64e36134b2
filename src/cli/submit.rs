//! `duite submit`.

use std::process::ExitCode;

use clap::Args;

use super::{
    Error,
    connect::{ConnectArgs, OutputArgs},
    follow::{self, Follow},
    new_task::{self, TaskArgs},
    output, show,
};
use crate::client::short_name;

/// Submit a task
///
/// Prints the task's id. When it does, the task is on the server's disk.
#[derive(Args, Debug)]
#[command(override_usage = "duite submit [OPTIONS] <TYPE>")]
#[command(after_long_help = "\
Examples:
  duite submit resize --input '{\"path\": \"a.png\"}'
  duite submit train --input @config.json --queue gpu --max-attempts 5 --wait
  head -c 100 /dev/urandom | duite submit digest --input - --content-type application/octet-stream

Exit codes: 0 submitted (with --wait: succeeded), 1 failed, 2 wrong options, 69 no server.")]
pub(super) struct SubmitArgs {
    /// What a worker must know how to run
    #[arg(value_name = "TYPE")]
    task_type: String,
    /// What it works on: JSON, @FILE, or - for standard input
    #[arg(short, long, value_name = "INPUT")]
    input: Option<String>,
    /// What the input is, where it is not JSON
    #[arg(long, value_name = "TYPE", requires = "input")]
    content_type: Option<String>,
    /// Follow it to its end
    #[arg(short, long)]
    wait: bool,
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl SubmitArgs {
    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        let mut task = self.task.task(&self.task_type)?;
        if let Some(input) = &self.input {
            task = new_task::input(task, input, self.content_type.as_deref())?;
        }
        let client = self.connect.client()?;
        let task = client.submit(task).await?;
        if !self.wait {
            if self.output.is_json() {
                output::json_line("Task", &task)?;
            } else {
                output::line(short_name(&task.name))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let name = task.name.clone();
        let ended = Follow::to_the_end(&client, vec![task], follow::Display::progress()).await?;
        let task = client.whole(follow::only(ended, &name)?).await?;
        if self.output.is_json() {
            output::json_line("Task", &task)?;
        } else {
            output::line(show::task(&task))?;
        }
        Ok(follow::exit_code(&task))
    }
}
