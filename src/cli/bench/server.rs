//! A server as a child process: started, waited for, and gone at the end on every path.

use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
};

use super::{Error, process, wait};

/// A server on an empty folder is ready within 200 ms; this is for a machine under load.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// A process that has closed its output is killed after this.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How much of the server's log is shown when it does not start.
const LOG_TAIL_BYTES: u64 = 2_000;

/// A server of this binary. Dropping it kills it and removes its folder.
#[derive(Debug)]
pub(super) struct ServerProcess {
    // Before the folder: fields are dropped in this order, and a killed server writes nothing more.
    child: Child,
    pid: u32,
    address: String,
    data: PathBuf,
    /// Reads on, so that the server never blocks on a full pipe.
    _output: OutputReader,
    _folder: TempDir,
}

#[derive(Debug)]
struct OutputReader(JoinHandle<()>);

impl Drop for OutputReader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ServerProcess {
    /// Starts `duite server` with its data in a new folder under `parent`.
    pub(super) async fn start(parent: &Path) -> Result<Self, Error> {
        Self::start_with(parent, &[]).await
    }

    /// The same with these variables of OpenTelemetry, and none that this process has.
    pub(super) async fn start_with(
        parent: &Path,
        variables: &[(&str, String)],
    ) -> Result<Self, Error> {
        let fixed = [
            "server",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
        ];
        Self::spawn(&this_binary()?, &fixed, variables, parent).await
    }

    /// Starts the bare tonic server with its log in a new folder under `parent`.
    pub(super) async fn start_bare(parent: &Path) -> Result<Self, Error> {
        Self::spawn(
            &this_binary()?,
            &["bench", "ceiling-server", "--data"],
            &[],
            parent,
        )
        .await
    }

    /// Runs `program` with `arguments` and a new folder under `parent` as the last one.
    async fn spawn(
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, String)],
        parent: &Path,
    ) -> Result<Self, Error> {
        if !parent.is_dir() {
            return Err(Error::NoFolder(parent.to_owned()));
        }
        let folder = tempfile::Builder::new()
            .prefix("duite-bench-")
            .tempdir_in(parent)
            .map_err(|source| {
                Error::io(format!("create a folder in {}", parent.display()), source)
            })?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)
            .map_err(|source| Error::io(format!("create {}", data.display()), source))?;
        let log_path = folder.path().join("log");
        let log = File::options()
            .create_new(true)
            .read(true)
            .append(true)
            .open(&log_path)
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|source| Error::io(format!("create {}", log_path.display()), source))?;

        let mut arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        arguments.push(data.clone().into_os_string());
        let mut command = Command::new(program);
        let inherited = std::env::vars_os().map(|(name, _)| name);
        for name in inherited.filter(|name| name.to_string_lossy().starts_with("OTEL_")) {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            // The bare server takes the end of its input as its own end.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| Error::io(format!("start {}", program.display()), source))?;
        let stdout = child.stdout.take();
        let (Some(stdout), Some(pid)) = (stdout, child.id()) else {
            return Err(ended(&mut child, log.1).await);
        };
        let mut lines = BufReader::new(stdout).lines();
        let ready = wait::at_most(
            READY_WITHIN,
            "the server's line \"listening grpc=…\"",
            async { address_in(&mut lines).await },
        );
        let Some(address) = ready.await? else {
            return Err(ended(&mut child, log.1).await);
        };
        let output =
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            child,
            pid,
            address,
            data,
            _output: OutputReader(output),
            _folder: folder,
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn usage(&self) -> Result<Option<process::Usage>, Error> {
        process::usage(self.pid)
    }

    pub(super) fn data_bytes(&self) -> u64 {
        process::folder_bytes(&self.data)
    }

    /// Kills it and waits until it is gone.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        self.child
            .kill()
            .await
            .map_err(|source| Error::io("stop the server", source))
    }
}

fn this_binary() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|source| Error::io("find this binary", source))
}

/// The address in the line that says that the server listens; `None` when its output ends first.
async fn address_in(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<Option<String>, Error> {
    loop {
        let line = lines.next_line().await;
        match line.map_err(|source| Error::io("read the server's output", source))? {
            None => return Ok(None),
            Some(line) => {
                if let Some(address) = listening_address(&line) {
                    return Ok(Some(address.to_owned()));
                }
            }
        }
    }
}

fn listening_address(line: &str) -> Option<&str> {
    let fields = line.strip_prefix("listening ")?;
    fields
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("grpc="))
}

/// Says how the server ended, with the end of its log.
async fn ended(child: &mut Child, mut log: File) -> Error {
    // Its output has ended, so it is ending, unless it only closed its output.
    if tokio::time::timeout(END_WITHIN, child.wait())
        .await
        .is_err()
    {
        let _ = child.start_kill();
    }
    let status = child.wait().await;
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let mut tail = Vec::new();
    let length = log.metadata().map_or(0, |metadata| metadata.len());
    let from = length.saturating_sub(LOG_TAIL_BYTES);
    let read = log
        .seek(SeekFrom::Start(from))
        .and_then(|_| log.read_to_end(&mut tail));
    let log = match read {
        Ok(0) => "(nothing)".to_owned(),
        Ok(_) => String::from_utf8_lossy(&tail).into_owned(),
        Err(error) => format!("(unreadable: {error})"),
    };
    Error::ServerEnded { status, log }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn start_shell(script: &str, parent: &Path) -> Result<ServerProcess, Error> {
        ServerProcess::spawn(Path::new("/bin/sh"), &["-c", script, "sh"], &[], parent).await
    }

    #[test]
    fn the_address_is_found_wherever_it_stands_in_the_line() {
        let line = "listening grpc=127.0.0.1:1 admin=127.0.0.1:2";
        assert_eq!(listening_address(line), Some("127.0.0.1:1"));
        assert_eq!(listening_address("listening admin=a grpc=b"), Some("b"));
        assert_eq!(listening_address("not listening grpc=b"), None);
    }

    #[tokio::test]
    async fn a_server_that_ends_early_is_reported_with_its_log() {
        let parent = tempfile::tempdir().unwrap();
        let error = start_shell("echo no such disk >&2; exit 3", parent.path())
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3"), "{text}");
        assert!(text.contains("no such disk"), "{text}");
    }

    #[tokio::test]
    async fn dropping_it_kills_the_process_and_removes_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let script = "echo hello; echo listening grpc=here; exec cat";
        let server = start_shell(script, parent.path()).await.unwrap();
        assert_eq!(server.address(), "here");
        let pid = server.pid;
        drop(server);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        // Killed at once, reaped by the runtime a moment later: a zombie has no memory.
        let alive =
            || process::usage(pid).is_ok_and(|usage| usage.is_some_and(|u| u.resident_bytes > 0));
        wait::at_most(Duration::from_secs(10), "the end of the process", async {
            while alive() {
                tokio::task::yield_now().await;
            }
            Ok(())
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_parent_folder_that_does_not_exist_is_refused_by_name() {
        let error = start_shell("true", Path::new("/nonexistent"))
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the data folder /nonexistent is not a folder")
        );
    }
}
