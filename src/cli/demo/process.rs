//! The demo's child processes. Dropping one kills it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{
    Error,
    scratch::{Scratch, tail},
};

/// How long the server may take until it listens.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a process may take to end by itself when it is asked to.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: String,
    pub(super) pid: u32,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts this binary with `arguments`; what it logs goes to a file.
    fn start(name: &str, arguments: &[&str], scratch: &Scratch) -> Result<Self, Error> {
        let program =
            std::env::current_exe().map_err(|source| Error::io("find this binary", source))?;
        Self::start_program(&program, name, arguments, scratch)
    }

    fn start_program(
        program: &Path,
        name: &str,
        arguments: &[&str],
        scratch: &Scratch,
    ) -> Result<Self, Error> {
        let log = scratch.log(name);
        let file = File::create(&log)
            .map_err(|source| Error::io(format!("create {}", log.display()), source))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true);
        // Ctrl-C is for the demo alone, which then stops them in order.
        #[cfg(unix)]
        command.process_group(0);
        let child = command
            .spawn()
            .map_err(|source| Error::io(format!("start {}", program.display()), source))?;
        Ok(Self {
            name: name.to_owned(),
            pid: child.id().unwrap_or_default(),
            child,
            log,
        })
    }

    /// A server on free ports, and the address of its gRPC.
    pub(super) async fn server(scratch: &Scratch) -> Result<(Self, String), Error> {
        let data = scratch.data();
        let Some(data) = data.to_str() else {
            let message = "its path is not UTF-8; set TMPDIR to another";
            let source = std::io::Error::other(message);
            return Err(Error::io(format!("use {}", data.display()), source));
        };
        let arguments = [
            "server",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
            data,
        ];
        let mut server = Self::start("server", &arguments, scratch)?;
        let address = match timeout(READY_WITHIN, server.listening()).await {
            Ok(address) => address?,
            Err(_) => {
                return Err(Error::TimedOut {
                    what: "the server's line `listening grpc=…`".to_owned(),
                    limit: READY_WITHIN,
                    logs: server.tail(),
                });
            }
        };
        Ok((server, address))
    }

    /// A worker process.
    pub(super) fn worker(
        name: &str,
        address: &str,
        die_after: Option<u32>,
        scratch: &Scratch,
    ) -> Result<Self, Error> {
        let mut arguments = vec!["demo-worker", "--addr", address, "--worker-id", name];
        let die_after = die_after.map(|after| after.to_string());
        if let Some(after) = &die_after {
            arguments.extend(["--die-after", after]);
        }
        Self::start(name, &arguments, scratch)
    }

    /// The address in the line that says that the server listens.
    async fn listening(&mut self) -> Result<String, Error> {
        let stdout = self.child.stdout.take();
        let stdout = stdout.expect("its output was made a pipe and is taken once");
        let mut lines = BufReader::new(stdout).lines();
        loop {
            let line = lines.next_line().await;
            match line.map_err(|source| Error::io("read the server's output", source))? {
                Some(line) => {
                    if let Some(address) = listening_address(&line) {
                        let address = address.to_owned();
                        // Nothing else is printed, but a closed pipe would be an error to it.
                        tokio::spawn(
                            async move { while let Ok(Some(_)) = lines.next_line().await {} },
                        );
                        return Ok(address);
                    }
                }
                None => {
                    let status = timeout(STOP_WITHIN, self.child.wait()).await;
                    let status = match status {
                        Ok(Ok(status)) => status.to_string(),
                        Ok(Err(error)) => error.to_string(),
                        Err(_) => "it closed its output".to_owned(),
                    };
                    return Err(self.ended_as(status));
                }
            }
        }
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        let ended = self.child.try_wait();
        ended.map_err(|source| Error::io(format!("look after {}", self.name), source))
    }

    /// The error that tells of its end.
    pub(super) fn ended_as(&self, status: impl ToString) -> Error {
        Error::ProcessEnded {
            name: self.name.clone(),
            status: status.to_string(),
            log: self.tail(),
        }
    }

    /// The end of its log.
    pub(super) fn tail(&self) -> String {
        tail(&self.log)
    }

    /// SIGKILL, and waits until it is gone.
    pub(super) async fn kill(&mut self) -> Result<(), Error> {
        let killed = self.child.kill().await;
        killed.map_err(|source| Error::io(format!("kill {}", self.name), source))
    }

    /// Stops it from running (true) or lets it go on.
    #[cfg(unix)]
    pub(super) fn freeze(&self, frozen: bool) -> Result<(), Error> {
        use rustix::process::Signal;
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        self.signal(signal)
            .map_err(|source| Error::io(format!("freeze {}", self.name), source))
    }

    /// Elsewhere it runs on: the demo then looks at a moving thing.
    #[cfg(not(unix))]
    pub(super) fn freeze(&self, _frozen: bool) -> Result<(), Error> {
        Ok(())
    }

    /// Asks it to end, by the end of its input and SIGTERM, and kills it if it does not.
    pub(super) async fn stop(&mut self) -> Result<(), Error> {
        drop(self.child.stdin.take());
        #[cfg(unix)]
        if self.name == "server" {
            // An error means that it is gone.
            let _ = self.signal(rustix::process::Signal::TERM);
        }
        match timeout(STOP_WITHIN, self.child.wait()).await {
            Ok(ended) => ended
                .map(drop)
                .map_err(|source| Error::io(format!("stop {}", self.name), source)),
            Err(_) => self.kill().await,
        }
    }

    /// Nothing when it has ended and was waited for: its id may be another's by now.
    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) -> std::io::Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        match id.and_then(rustix::process::Pid::from_raw) {
            Some(pid) => Ok(rustix::process::kill_process(pid, signal)?),
            None => Ok(()),
        }
    }
}

fn listening_address(line: &str) -> Option<&str> {
    let fields = line.strip_prefix("listening ")?;
    fields
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("grpc="))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> (Scratch, Process) {
        let scratch = Scratch::outside(Path::new("/nonexistent")).unwrap();
        let shell = Path::new("/bin/sh");
        let process = Process::start_program(shell, "test", &["-c", script], &scratch).unwrap();
        (scratch, process)
    }

    #[test]
    fn the_address_is_found_wherever_it_stands_in_the_line() {
        let line = "listening admin=127.0.0.1:2 grpc=127.0.0.1:1";
        assert_eq!(listening_address(line), Some("127.0.0.1:1"));
        assert_eq!(listening_address("not listening grpc=b"), None);
    }

    #[tokio::test]
    async fn a_server_that_ends_early_is_reported_with_its_log() {
        let (_scratch, mut process) = shell("echo no such disk >&2; exit 3");
        let text = process.listening().await.unwrap_err().to_string();
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("no such disk"), "{text}");
    }

    #[tokio::test]
    async fn a_process_ends_with_its_input() {
        let (_scratch, mut process) = shell("exec cat");
        assert!(process.ended().unwrap().is_none());
        process.stop().await.unwrap();
        assert!(process.ended().unwrap().unwrap().success());
    }

    #[tokio::test]
    async fn a_frozen_process_can_be_killed() {
        let (_scratch, mut process) = shell("exec cat");
        process.freeze(true).unwrap();
        process.kill().await.unwrap();
        assert!(!process.ended().unwrap().unwrap().success());
        // Nobody is left to be frozen: not an error, and nobody else is hit.
        process.freeze(true).unwrap();
    }
}
