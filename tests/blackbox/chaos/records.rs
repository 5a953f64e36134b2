//! What everybody writes down while it happens, in a folder that outlives a test that failed.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    thread,
};

use tempfile::TempDir;

use super::clock;
use crate::history::{HandedOut, Run, RunEnd};

/// The folder of one run.
pub(super) struct Folder(TempDir);

impl Folder {
    /// `keep`: even where the test passes.
    pub(super) fn new(keep: bool) -> Self {
        let place = env!("CARGO_TARGET_TMPDIR");
        let mut folder = tempfile::Builder::new()
            .prefix("chaos-")
            .tempdir_in(place)
            .expect("a folder can be made in the target folder");
        if keep {
            folder.disable_cleanup(true);
            eprintln!("everything that is seen is kept in {:?}", folder.path());
        }
        Self(folder)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A folder inside, for a server: what it holds stays as long as this one.
    pub(super) fn inner(&self, prefix: &str) -> TempDir {
        let mut inner = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(self.path())
            .expect("a folder can be made");
        inner.disable_cleanup(true);
        inner
    }

    pub(super) fn log(&self, name: &str) -> Log {
        Log::at(self.path().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("everything that was seen is kept in {:?}", self.path());
        }
    }
}

/// A file of lines, each in the system's hands when the call returns: nothing that ends the process
/// takes it back.
#[derive(Debug)]
pub(super) struct Log(File);

impl Log {
    pub(super) fn at(path: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(path);
        Self(file.expect("a record can be opened"))
    }

    /// Appends a line after the time.
    pub(super) fn line(&self, line: fmt::Arguments<'_>) {
        let line = format!("{} {line}\n", clock::now());
        // One write, so that lines of several threads do not mix.
        (&self.0)
            .write_all(line.as_bytes())
            .expect("the disk has room");
    }
}

/// One life of a worker process, as the test knows it.
#[derive(Clone, Debug)]
pub(super) struct Life {
    /// Its worker id, and the name of its records.
    pub(super) worker: String,
    /// When it was killed, or `u64::MAX`.
    pub(super) killed: u64,
    /// When it was paused: from, until.
    pub(super) pauses: Vec<(u64, u64)>,
}

/// The name of the file where a worker records its runs.
pub(super) fn file_name(worker: &str) -> String {
    format!("runs.{worker}")
}

/// When each task was given to a process, as its lease says.
pub(super) fn handed_out(folder: &Path, life: &Life) -> Vec<HandedOut> {
    let path = folder.join(file_name(&life.worker));
    let text = fs::read_to_string(path).unwrap_or_default();
    let starts = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[1] == "start").then(|| HandedOut {
            task: words[3].to_owned(),
            at: words[6].parse().expect("a time of ours"),
        })
    });
    starts.collect()
}

/// Reads what a process recorded. `heard` says whether a release between two times surely reached
/// the server.
pub(super) fn runs(folder: &Path, life: &Life, heard: impl Fn(u64, u64) -> bool) -> Vec<Run> {
    let path = folder.join(file_name(&life.worker));
    // One that was killed before it began has recorded nothing.
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut runs: BTreeMap<String, Run> = BTreeMap::new();
    let mut order = Vec::new();
    let (mut stopping, mut stopped) = (None, None);
    // The last line of a process that was killed may be torn only between two writes, so it is not.
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| -> u64 {
            let word = words.get(at).unwrap_or_else(|| panic!("too short: {line}"));
            word.parse().unwrap_or_else(|_| panic!("no number: {line}"))
        };
        let time = number(0);
        match words[1] {
            "start" => {
                let run = Run {
                    lease: words[2].to_owned(),
                    task: words[3].to_owned(),
                    attempt: i32::try_from(number(4)).expect("attempts are few"),
                    worker: life.worker.clone(),
                    start: time,
                    until: number(5),
                    confirmed: false,
                    told: None,
                    end: RunEnd::Over,
                    may_be_given_back: false,
                };
                order.push(run.lease.clone());
                let again = runs.insert(run.lease.clone(), run);
                assert!(again.is_none(), "a lease began twice at one worker: {line}");
            }
            "renewed" => {
                let run = runs.get_mut(words[2]).expect("it has started");
                run.until = number(3);
                run.confirmed = true;
            }
            "told" => runs.get_mut(words[2]).expect("it has started").told = Some(time),
            "end" => {
                let run = runs.get_mut(words[2]).expect("it has started");
                run.until = number(3).min(time);
                run.end = match words[4] {
                    "succeeded" => RunEnd::Succeeded,
                    // Settled below.
                    "dropped" => RunEnd::Released { heard: false },
                    _ => RunEnd::Over,
                };
            }
            "stopping" => stopping = Some(time),
            "stopped" => stopped = Some(time),
            other => panic!("nobody records {other}: {line}"),
        }
    }
    for run in runs.values_mut() {
        run.until = run.until.min(life.killed);
        run.may_be_given_back = stopping.is_some();
        if let (RunEnd::Released { heard: known }, Some(from), Some(to)) =
            (&mut run.end, stopping, stopped)
        {
            *known = heard(from, to);
        }
    }
    order
        .into_iter()
        .map(|lease| runs.remove(&lease).expect("it was put there"))
        .collect()
}
