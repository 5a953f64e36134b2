//! The real binary as child processes, for black-box tests: servers, workers, commands.
//!
//! Every process is started without the caller's `DUITE_*` and `OTEL_*` variables, in a folder of its own, and is
//! killed when its guard is dropped. What should end but does not is killed after [`PATIENCE`], so a
//! hang is a failure with a message.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate uses a part of it"
)]

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take that should take no time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A free port of this machine.
const ANY_PORT: &str = "127.0.0.1:0";
/// How much of a server's log is shown where a test fails.
const LOG_SHOWN_BYTES: usize = 8_000;

/// The binary that cargo built for these tests, or the one that `DUITE_BIN` names, such as
/// `target/release/duite`.
pub fn binary() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_duite").into();
    env::var_os("DUITE_BIN").map_or_else(built, |named| {
        // Commands run in folders of their own.
        std::path::absolute(named).expect("DUITE_BIN is a path")
    })
}

/// `duite` with these arguments, not started yet.
pub fn command<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("DUITE_") || name_text.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Panics unless it ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Panics unless standard error has every one of `parts`.
    #[track_caller]
    pub fn says<const N: usize>(self, parts: [&str; N]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in {self:#?}");
        }
        self
    }

    /// Standard output as JSON, an object for each line.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {self:#?}")))
            .collect()
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    run_within(command, PATIENCE)
}

/// The same for one that may take longer, or must not take so long.
#[track_caller]
pub fn run_within(command: &mut Command, patience: Duration) -> Output {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary starts");
    let watchdog = Watchdog::within(&child, patience);
    let output = child.wait_with_output().expect("its output can be read");
    watchdog.end();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("output is text"),
        stderr: String::from_utf8(output.stderr).expect("output is text"),
    }
}

/// Sends a signal.
pub fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a child has an id"), signal).expect("the child was not waited for");
}

/// Kills a process that outlives the patience.
struct Watchdog(mpsc::Sender<()>);

impl Watchdog {
    fn of(child: &Child) -> Self {
        Self::within(child, PATIENCE)
    }

    fn within(child: &Child, patience: Duration) -> Self {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            if end.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout)
                && let Some(pid) = pid
            {
                eprintln!("process {pid:?} is killed: it took longer than {patience:?}");
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        Self(ended)
    }

    fn end(self) {
        let _ = self.0.send(());
    }
}

/// Waits for a process to end.
#[track_caller]
pub fn wait(child: &mut Child) -> ExitStatus {
    let watchdog = Watchdog::of(child);
    let status = child.wait().expect("a child can be waited for");
    watchdog.end();
    status
}

/// A server process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    grpc: String,
    admin: String,
    folder: TempDir,
    options: Vec<String>,
    variables: Vec<(String, String)>,
    ready_after: Duration,
}

impl Server {
    /// On free ports, with a data folder of its own.
    pub fn start() -> Self {
        Self::start_with::<&str>([])
    }

    /// The same with more options.
    pub fn start_with<S: Into<String>>(options: impl IntoIterator<Item = S>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self::start_in(folder, options)
    }

    /// The same where the folder `data` in `folder` may hold something already.
    pub fn start_in<S: Into<String>>(
        folder: TempDir,
        options: impl IntoIterator<Item = S>,
    ) -> Self {
        let options: Vec<String> = options.into_iter().map(Into::into).collect();
        Self::start_all(folder, options, Vec::new())
    }

    /// On free ports, with these variables in its environment.
    pub fn start_env<const N: usize>(variables: [(&str, &str); N]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self::start_all(folder, Vec::new(), variables.into())
    }

    fn start_all(folder: TempDir, options: Vec<String>, variables: Vec<(String, String)>) -> Self {
        let started = Instant::now();
        let (child, grpc, admin) = spawn(folder.path(), ANY_PORT, ANY_PORT, &options, &variables);
        Self {
            variables,
            child,
            grpc,
            admin,
            folder,
            options,
            ready_after: started.elapsed(),
        }
    }

    /// From the start of the process to its word that it is ready.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Resident memory.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.pid());
        let statm = fs::read_to_string(path).expect("the server runs");
        let pages = statm.split_ascii_whitespace().nth(1);
        let pages: Option<u64> = pages.and_then(|pages| pages.parse().ok());
        pages.expect("statm has figures") * rustix::param::page_size() as u64
    }

    /// `http://HOST:PORT` of the services.
    pub fn addr(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// `HOST:PORT` of the services.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// `HOST:PORT` of health and reflection.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("the log is text")
    }

    /// A command that speaks to it, not started yet.
    pub fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = command(arguments);
        command
            .env("DUITE_ADDR", self.addr())
            .current_dir(self.folder.path());
        command
    }

    /// Runs a command that speaks to it to its end.
    #[track_caller]
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        run(&mut self.command(arguments))
    }

    /// Kills it, without a chance to tidy up.
    pub fn kill9(&mut self) {
        signal(&self.child, Signal::KILL);
        wait(&mut self.child);
    }

    /// Starts it again after [`kill9`](Self::kill9) or [`stop`](Self::stop): the same data, the same
    /// addresses.
    pub fn restart(&mut self) {
        let folder = self.folder.path();
        let (child, ..) = spawn(
            folder,
            &self.grpc,
            &self.admin,
            &self.options,
            &self.variables,
        );
        self.child = child;
    }

    /// The same on free ports: one that many restarts want back may be taken meanwhile.
    pub fn restart_elsewhere(&mut self) {
        let folder = self.folder.path();
        let started = Instant::now();
        (self.child, self.grpc, self.admin) =
            spawn(folder, ANY_PORT, ANY_PORT, &self.options, &self.variables);
        self.ready_after = started.elapsed();
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Sends it a signal.
    pub fn signal(&self, kind: Signal) {
        signal(&self.child, kind);
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
        if thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(LOG_SHOWN_BYTES);
            let from = (from..).find(|start| log.is_char_boundary(*start));
            eprintln!(
                "the end of the server's log:\n{}",
                &log[from.unwrap_or(0)..]
            );
        }
    }
}

/// Starts a server and waits for its line.
fn spawn(
    folder: &Path,
    grpc: &str,
    admin: &str,
    options: &[String],
    variables: &[(String, String)],
) -> (Child, String, String) {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("a log can be opened");
    let mut child = command([
        "server", "--listen", grpc, "--admin", admin, "--data", "data",
    ])
    .args(options)
    .envs(variables.iter().cloned())
    .current_dir(folder)
    .stdout(Stdio::piped())
    .stderr(log)
    .spawn()
    .expect("the binary starts");
    let mut line = String::new();
    let watchdog = Watchdog::of(&child);
    let stdout = child.stdout.take().expect("it was piped");
    let _ = BufReader::new(stdout).read_line(&mut line);
    watchdog.end();
    let fields = line.trim_end().strip_prefix("listening grpc=");
    let Some((grpc, admin)) = fields.and_then(|fields| fields.split_once(" admin=")) else {
        end(&mut child);
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("the server said `{line}` and logged:\n{log}");
    };
    let (grpc, admin) = (grpc.to_owned(), admin.to_owned());
    (child, grpc, admin)
}

/// Kills what still runs.
fn end(child: &mut Child) {
    // An error: it has ended and was waited for.
    let _ = child.kill();
    let _ = child.wait();
}

/// A command that goes on, read line by line.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let stderr = BufReader::new(child.stderr.take().expect("it was piped")).lines();
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Reads standard output up to a line with `part`, which it gives.
    #[track_caller]
    pub fn stdout_until(&mut self, part: &str) -> String {
        until(&self.child, &mut self.stdout, part)
    }

    /// Reads standard error to its end: until the process has ended.
    #[track_caller]
    pub fn rest_of_stderr(&mut self) -> String {
        let watchdog = Watchdog::of(&self.child);
        let lines: Result<Vec<_>, _> = self.stderr.by_ref().collect();
        watchdog.end();
        lines.expect("output is text").join("\n")
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads standard error up to a line with `part`, which it gives.
    #[track_caller]
    pub fn stderr_until(&mut self, part: &str) -> String {
        until(&self.child, &mut self.stderr, part)
    }

    /// Sends it a signal.
    pub fn signal(&self, kind: Signal) {
        signal(&self.child, kind);
    }

    /// Writes a line to its standard input, which must have been piped, and closes it.
    pub fn say(&mut self, line: &str) {
        let mut stdin = self.child.stdin.take().expect("it was piped");
        writeln!(stdin, "{line}").expect("the process reads");
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

#[track_caller]
fn until<R: BufRead>(child: &Child, lines: &mut Lines<R>, part: &str) -> String {
    let watchdog = Watchdog::of(child);
    let mut seen = Vec::new();
    for line in lines {
        let line = line.expect("output is text");
        if line.contains(part) {
            watchdog.end();
            return line;
        }
        seen.push(line);
    }
    panic!("the output ended without `{part}`:\n{}", seen.join("\n"));
}

/// A worker that runs command lines.
#[derive(Debug)]
pub struct Worker {
    running: Running,
}

impl Worker {
    /// Takes tasks of `server`'s queue `default`.
    pub fn start(server: &Server) -> Self {
        Self::start_with::<&str>(server, [])
    }

    /// The same with more options.
    pub fn start_with<S: AsRef<std::ffi::OsStr>>(
        server: &Server,
        options: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = server.command(["worker", "--allow-exec"]);
        let mut running = Running::start(command.args(options));
        running.stderr_until("worker started");
        Self { running }
    }

    /// Sends it a signal.
    pub fn signal(&self, kind: Signal) {
        self.running.signal(kind);
    }

    /// Reads its log up to a line with `part`, which it gives.
    #[track_caller]
    pub fn log_until(&mut self, part: &str) -> String {
        self.running.stderr_until(part)
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        self.running.wait()
    }

    /// Kills it, without a chance to give anything back.
    pub fn kill9(&mut self) {
        self.running.signal(Signal::KILL);
        self.running.wait();
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.running.signal(Signal::TERM);
        self.running.wait()
    }
}
