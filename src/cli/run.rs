//! `duite run`: a command line as a task.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    Error,
    connect::{ConnectArgs, OutputArgs},
    follow::{self, Follow},
    new_task::{TaskArgs, parse_pair},
    output, show,
};
use crate::{
    client::short_name,
    proto::v1::{Payload, Task, task::Status},
};

/// What `duite worker --allow-exec` runs.
const TASK_TYPE: &str = "exec";

/// Run a command line on a worker, and follow it
///
/// Submits a task of type exec, which a worker started with --allow-exec runs. Progress comes on
/// standard error while it runs, the end of its output on standard output when it has ended, and
/// the exit code is the program's. Interrupting asks the task to stop; interrupting again leaves it.
///
/// A program's own failure is final unless --max-attempts is given. An attempt that is lost with its
/// worker, or takes too long, is tried again in any case: 3 attempts, unless --max-attempts says
/// otherwise.
#[derive(Args, Debug)]
#[command(override_usage = "duite run [OPTIONS] [--] <CMD>...")]
#[command(after_long_help = "\
The program reports state by lines on its standard output, or by `duite state set KEY=VALUE`:
  ::duite progress=0.4 phase=\"mesh\" done+=1 old!

Examples:
  duite run -- make -j4
  duite run --queue gpu --env EPOCHS=10 --cwd /src -- python train.py
  duite run --detach --label nightly=1 -- ./backup.sh

Exit codes: the program's; 128 + N where signal N ended it; 1 it could not be run; 130 cancelled;
2 wrong options; 69 no server.")]
pub(super) struct RunArgs {
    /// A variable of its environment; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    /// Its working folder on the worker [default: the worker's own]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Print the task's id and do not follow it
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// The program and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    argv: Vec<String>,
}

/// The input of a task of type `exec`.
#[derive(Debug, Serialize)]
struct Input<'a> {
    argv: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    retry: bool,
}

/// What a worker tells of a program that has ended.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    exit_code: Option<u8>,
    signal: Option<u8>,
    output_tail: String,
    truncated: bool,
}

impl RunArgs {
    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        let input = Input {
            argv: &self.argv,
            env: self.env.into_iter().collect(),
            cwd: self.cwd,
            retry: self.task.wants_retries(),
        };
        let task = self.task.task(TASK_TYPE)?.json(&input);
        let task =
            task.map_err(|error| Error::usage(format!("the command is no JSON: {error}")))?;
        let client = self.connect.client()?;
        let task = client.submit(task).await?;
        if self.detach {
            if self.output.is_json() {
                output::json_line("Task", &task)?;
            } else {
                output::line(short_name(&task.name))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let name = task.name.clone();
        let display = follow::Display::progress();
        let ended = Follow::to_the_end(&client, vec![task], display).await?;
        let task = client.whole(follow::only(ended, &name)?).await?;
        let report = report(&task);
        if self.output.is_json() {
            output::json_line("Task", &task)?;
        } else {
            print_tail(&report)?;
        }
        Ok(exit_code(&task, &report))
    }
}

fn report(task: &Task) -> Report {
    let failure = task.failure.as_ref();
    let details = failure.and_then(|failure| failure.details.as_ref());
    let payload: Option<&Payload> = task.output.as_ref().or(details);
    payload
        .and_then(|payload| serde_json::from_slice(&payload.data).ok())
        .unwrap_or_default()
}

fn print_tail(report: &Report) -> Result<(), Error> {
    if report.truncated {
        eprintln!("(only the end of the output is kept)");
    }
    let tail = &report.output_tail;
    output::bytes(tail.as_bytes())?;
    if !tail.is_empty() && !tail.ends_with('\n') {
        output::bytes(b"\n")?;
    }
    Ok(())
}

fn exit_code(task: &Task, report: &Report) -> ExitCode {
    match (task.status(), report.exit_code, report.signal) {
        (Status::Succeeded, ..) => ExitCode::SUCCESS,
        (Status::Cancelled, ..) => ExitCode::from(130),
        (_, Some(code @ 1..), _) => ExitCode::from(code),
        (_, _, Some(signal)) => ExitCode::from(128_u8.saturating_add(signal)),
        _ => {
            if let Some(failure) = &task.failure {
                eprintln!("error: {}", show::failure(failure));
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::Failure;

    fn failed(details: &'static str) -> Task {
        let mut task = Task {
            failure: Some(Failure {
                details: Some(Payload {
                    data: details.into(),
                    ..Payload::default()
                }),
                ..Failure::default()
            }),
            ..Task::default()
        };
        task.set_status(Status::Failed);
        task
    }

    #[test]
    fn the_exit_code_is_the_program_s() {
        for (details, code) in [
            (r#"{"exit_code":7,"output_tail":"x"}"#, 7),
            (r#"{"exit_code":null,"signal":9}"#, 137),
            ("", 1),
            ("no json", 1),
        ] {
            let task = failed(details);
            assert_eq!(
                exit_code(&task, &report(&task)),
                ExitCode::from(code),
                "{details}"
            );
        }
        let mut task = failed("");
        task.set_status(Status::Cancelled);
        assert_eq!(exit_code(&task, &report(&task)), ExitCode::from(130));
    }
}
