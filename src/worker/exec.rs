//! The handler of type `exec`: a command line as a task.
//!
//! The input is JSON: `{"argv": ["make", "all"], "env": {"CC": "clang"}, "cwd": "/src"}`, and
//! `"retry": true` to run a program that failed again. The program finds the server and its own task in its environment: `DUITE_ADDR`, `DUITE_TASK`,
//! `DUITE_LEASE` (the lease token in hex) and `DUITE_STATE`; and its place in the trace, where it has
//! one, in `TRACEPARENT` and `TRACESTATE`, as OpenTelemetry and duite's own client look for it. It reports state with lines, see
//! `exec_lines`. It runs in a process group of its own, which is asked to end with SIGTERM when
//! the task is asked to stop, and killed 5 s later, or at once when the attempt is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    sync::mpsc,
};

use super::{
    context::TaskContext,
    exec_lines,
    exec_output::{Lines, Tail},
    failure::{MAX_DETAILS_BYTES, Output, TaskFailure},
};
use crate::runtime::create_library_task;

/// The type of tasks that are command lines.
pub(super) const TASK_TYPE: &str = "exec";
/// Between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long output may still come after the program has ended: something it started may hold its
/// pipes open for ever.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// What is left free of a failure's details.
const DETAILS_ROOM: usize = 4 << 10;
/// Of a failed program's output, what goes into the message.
const MESSAGE_LINES: usize = 5;
const MESSAGE_BYTES: usize = 1000;

/// What is to be run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    argv: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    cwd: Option<PathBuf>,
    /// A program that fails is run again, as often as the task's policy allows. Without it only a
    /// worker that is lost costs an attempt: a command line is not made to be run twice.
    #[serde(default)]
    retry: bool,
}

/// How it ended.
#[derive(Debug, Serialize)]
struct Report {
    exit_code: Option<i32>,
    signal: Option<i32>,
    output_tail: String,
    truncated: bool,
    malformed_lines: u64,
}

impl Report {
    /// Cuts the output until the report as JSON is no longer than that.
    fn shrink(&mut self, limit: usize) -> Result<(), serde_json::Error> {
        loop {
            let bytes = serde_json::to_vec(self)?.len();
            let tail = self.output_tail.len();
            if bytes <= limit || tail == 0 {
                return Ok(());
            }
            // In proportion: an escaped character is up to six times as long as it was.
            let cut = ((bytes - limit) * tail / bytes).max(64).min(tail);
            let mut starts = cut..=tail;
            let start = starts.find(|start| self.output_tail.is_char_boundary(*start));
            self.output_tail.drain(..start.unwrap_or(tail));
            self.truncated = true;
        }
    }
}

/// Runs the task's command line.
pub(super) async fn run(context: TaskContext) -> Result<Output, TaskFailure> {
    let input: Input = context.json()?;
    let Some(program) = input.argv.first() else {
        let message = "`argv` is empty: it has to name at least the program";
        let failure = TaskFailure::new("input.invalid", message).permanent();
        return Err(failure.of_library(""));
    };
    let mut child = command(&context, &input, program)
        .spawn()
        .map_err(|error| {
            let message = match &input.cwd {
                // The system's error does not say which of the two is missing.
                Some(cwd) if !cwd.exists() => {
                    format!("working folder {} does not exist", cwd.display())
                }
                Some(cwd) if !cwd.is_dir() => {
                    format!("working folder {} is not a folder", cwd.display())
                }
                _ => format!("`{program}` could not be started: {error}"),
            };
            let failure = TaskFailure::new("exec.spawn", message).permanent();
            let failure = failure.of_library(name_of(program));
            failure.logged_as(format!(
                "the program could not be started: {}",
                error.kind()
            ))
        })?;
    let group = Group::of(&child);
    let (chunks, mut output) = mpsc::channel(16);
    read(child.stdout.take(), true, chunks.clone());
    read(child.stderr.take(), false, chunks);

    let mut seen = Seen::default();
    let cancelled = context.cancelled();
    let mut stopping = false;
    let kill_at = tokio::time::sleep(Duration::from_secs(u64::from(u32::MAX)));
    tokio::pin!(kill_at);
    let mut open = true;
    let status = loop {
        tokio::select! {
            chunk = output.recv(), if open => match chunk {
                Some(chunk) => seen.take(&context, chunk),
                None => open = false,
            },
            status = child.wait() => break status,
            () = cancelled.cancelled(), if !stopping => {
                stopping = true;
                group.signal(Signal::TERM);
                kill_at.as_mut().reset(tokio::time::Instant::now() + TERM_GRACE);
            }
            () = &mut kill_at => group.signal(Signal::KILL),
        }
    };
    let rest = async {
        while let Some(chunk) = output.recv().await {
            seen.take(&context, chunk);
        }
    };
    // Whoever holds the pipes beyond that goes with the group.
    let _ = tokio::time::timeout(OUTPUT_GRACE, rest).await;
    seen.end(&context);
    drop(group);
    let status = status?;
    let mut report = Report {
        exit_code: status.code(),
        signal: status.signal(),
        output_tail: seen.tail.text(),
        truncated: seen.tail.is_truncated(),
        malformed_lines: seen.malformed,
    };
    if status.success() {
        return Ok(serde_json::to_value(&report)?.into());
    }
    report.shrink(MAX_DETAILS_BYTES - DETAILS_ROOM)?;
    let json = serde_json::to_value(&report)?;
    if stopping {
        return Err(TaskFailure::cancelled().details(json));
    }
    let failure = failure(program, &report).details(json);
    Err(if input.retry {
        failure
    } else {
        failure.permanent()
    })
}

fn failure(program: &str, report: &Report) -> TaskFailure {
    let (failure_type, how) = match (report.exit_code, report.signal) {
        (Some(code), _) => (format!("exit.{code}"), format!("exited with code {code}")),
        (None, Some(signal)) => (
            format!("signal.{signal}"),
            format!("was ended by signal {signal}"),
        ),
        (None, None) => (
            "exit.unknown".to_owned(),
            "ended in an unknown way".to_owned(),
        ),
    };
    let mut lines: Vec<&str> = report
        .output_tail
        .lines()
        .rev()
        .take(MESSAGE_LINES)
        .collect();
    lines.reverse();
    let last = lines.join("\n");
    let mut starts = last.len().saturating_sub(MESSAGE_BYTES)..last.len();
    let start = starts
        .find(|start| last.is_char_boundary(*start))
        .unwrap_or_default();
    let message = match &last[start..] {
        "" => format!("`{program}` {how}, without output"),
        last => format!("`{program}` {how}: {last}"),
    };
    // Neither the command line nor what the program says is for the log.
    TaskFailure::new(failure_type, message)
        .of_library(name_of(program))
        .logged_as(format!("the program {how}"))
}

/// The program without the folder it is in, which differs between machines.
fn name_of(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

fn command(context: &TaskContext, input: &Input, program: &str) -> Command {
    let token: String = context
        .lease_token()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut command = Command::new(program);
    // Not that of the worker itself.
    command.env_remove("TRACEPARENT").env_remove("TRACESTATE");
    command
        .args(&input.argv[1..])
        .envs(&input.env)
        .env("DUITE_ADDR", context.client().address())
        .env("DUITE_TASK", &context.task().name)
        .env("DUITE_LEASE", token)
        .env("DUITE_STATE", context.state_name())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(trace) = context.trace_context() {
        command.env("TRACEPARENT", &trace.traceparent);
        if !trace.tracestate.is_empty() {
            command.env("TRACESTATE", &trace.tracestate);
        }
    }
    if let Some(cwd) = &input.cwd {
        command.current_dir(cwd);
    }
    command
}

/// The groups of all programs that run.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Kills all programs that run, with what they started: for a process that ends without dropping
/// its attempts.
pub(crate) fn kill_groups() {
    for group in GROUPS.lock().iter().copied().filter_map(Pid::from_raw) {
        // One that is gone already is what is wanted.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// The program's process group, killed when dropped: nothing that it started outlives the attempt.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let pid = pid.and_then(Pid::from_raw);
        if let Some(group) = pid {
            GROUPS.lock().insert(group.as_raw_nonzero().get());
        }
        Self(pid)
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // One that is gone already is what is wanted.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(group) = self.0 {
            GROUPS.lock().remove(&group.as_raw_nonzero().get());
        }
    }
}

struct Chunk {
    is_stdout: bool,
    bytes: Vec<u8>,
}

fn read<R>(pipe: Option<R>, is_stdout: bool, chunks: mpsc::Sender<Chunk>)
where
    R: AsyncRead + Unpin + Send + 'static,
{
    let Some(mut pipe) = pipe else { return };
    let _reading = create_library_task("read a program's output", async move {
        loop {
            let mut bytes = Vec::with_capacity(8 << 10);
            match pipe.read_buf(&mut bytes).await {
                Ok(1..) if chunks.send(Chunk { is_stdout, bytes }).await.is_ok() => {}
                // The end, an error, or nobody who listens any more.
                _ => return,
            }
        }
    });
}

/// What was seen of the program's output.
#[derive(Default)]
struct Seen {
    lines: Lines,
    tail: Tail,
    malformed: u64,
}

impl Seen {
    fn take(&mut self, context: &TaskContext, chunk: Chunk) {
        if !chunk.is_stdout {
            self.tail.push(&chunk.bytes);
            return;
        }
        let Self {
            lines,
            tail,
            malformed,
        } = self;
        lines.push(&chunk.bytes, |line| {
            stdout_line(context, line, tail, malformed)
        });
    }

    fn end(&mut self, context: &TaskContext) {
        let Self {
            lines,
            tail,
            malformed,
        } = self;
        lines.end(|line| stdout_line(context, line, tail, malformed));
    }
}

fn stdout_line(context: &TaskContext, line: &[u8], tail: &mut Tail, malformed: &mut u64) {
    if line.starts_with(exec_lines::PREFIX.as_bytes()) {
        let text = String::from_utf8_lossy(line);
        match exec_lines::parse(text.trim_end_matches(['\r', '\n'])) {
            Some(Ok(updates)) => {
                context.state().push(updates);
                return;
            }
            Some(Err(error)) => {
                *malformed += 1;
                let task = &context.task().name;
                if *malformed == 1 {
                    tracing::warn!(task.name = task, "malformed state line: {error}");
                } else {
                    tracing::debug!(task.name = task, "malformed state line: {error}");
                }
            }
            None => {}
        }
    }
    tail.push(line);
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
