//! The real binary as a child process: started, waited for, measured, killed, and gone at the end
//! on every path.
//!
//! `DUITE_BIN` names another binary than the one cargo built for this test, such as
//! `target/release/duite`.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// A start takes milliseconds; this is for a machine under load.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How much of a server's log is shown where a test fails.
const LOG_SHOWN_BYTES: usize = 4_000;

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("DUITE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_duite").into(), PathBuf::from)
}

/// Whether figures are checked against what is promised of a release build, and in full size.
pub(crate) fn is_strict() -> bool {
    std::env::var("DUITE_STRICT").is_ok_and(|set| set == "1")
}

/// A whole number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a whole number, it is {text:?}")),
        Err(_) => default,
    }
}

/// `duite ARGUMENTS` with nothing of this process's environment that would configure it.
pub(crate) fn duite(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DUITE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A server that runs. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Of the services, `http://HOST:PORT`.
    pub(crate) address: String,
    /// Of health and reflection, `HOST:PORT`.
    pub(crate) admin: String,
    /// From the start of the process to its word that it is ready.
    pub(crate) ready_after: Duration,
    log: PathBuf,
}

impl Server {
    /// Starts a server on free ports over a data folder. Its log is kept beside the folder.
    pub(crate) fn start(data: &Path) -> Self {
        Self::try_start(data).unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn try_start(data: &Path) -> Result<Self, String> {
        let log = data.with_extension("log");
        let errors = File::options().create(true).append(true).open(&log);
        let started = Instant::now();
        let mut child = duite(&[
            "server",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .arg("--data")
        .arg(data)
        .stdout(Stdio::piped())
        .stderr(errors.expect("the log of the server"))
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", binary().display()))?;
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let (tell, told) = mpsc::sync_channel(1);
        // Reads to the end, so that the server never writes into a pipe that nobody reads.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((grpc, admin)) = addresses(&line) {
                    let _ = tell.try_send((Instant::now(), grpc, admin));
                }
            }
        });
        match told.recv_timeout(READY_WITHIN) {
            Ok((at, grpc, admin)) => Ok(Self {
                child,
                address: format!("http://{grpc}"),
                admin,
                ready_after: at - started,
                log,
            }),
            Err(_) => {
                let _ = child.kill();
                let status = child.wait();
                let log = fs::read_to_string(&log).unwrap_or_default();
                Err(format!("the server did not start ({status:?}):\n{log}"))
            }
        }
    }

    /// kill -9, and the end of it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a process of ours can be killed");
        self.child.wait().expect("a killed process ends");
    }

    /// SIGTERM, and how the server ended.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
        self.child
            .wait()
            .expect("a process that was told to stop ends")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.child.id());
        let statm = fs::read_to_string(&path).expect("the server runs");
        let pages: u64 = statm
            .split_ascii_whitespace()
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .expect("resident pages are the second figure of statm");
        pages * rustix::param::page_size() as u64
    }

    /// What it wrote to standard error, and all servers before it on this folder.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(LOG_SHOWN_BYTES);
            let tail = (tail..).find(|start| log.is_char_boundary(*start));
            eprintln!(
                "the end of the server's log:\n{}",
                &log[tail.unwrap_or(0)..]
            );
        }
    }
}

/// Of the line `listening grpc=ADDR admin=ADDR`.
fn addresses(line: &str) -> Option<(String, String)> {
    let (grpc, admin) = line
        .strip_prefix("listening grpc=")?
        .split_once(" admin=")?;
    Some((grpc.to_owned(), admin.trim_end().to_owned()))
}
