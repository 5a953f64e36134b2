//! The worker processes as the test sees them: started, killed, paused, shut down, started again.

use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use fastrand::Rng;
use rustix::process::Signal;

use super::{
    child,
    clock::{self, MILLISECOND, SECOND},
    records::{Life, Log},
};
use crate::support;

/// A process that was told to stop and has not ended after this is killed: longer than the library
/// may take.
const STOPPING: u64 = 40 * SECOND;

/// The worker processes, of which each is started again after its end.
pub(super) struct Crew {
    address: String,
    folder: PathBuf,
    log: Log,
    members: Vec<Member>,
    /// All processes that have ended.
    lives: Vec<Life>,
    pub(super) counts: Counts,
}

/// How often what happened to them.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) killed: u32,
    pub(super) paused: u32,
    pub(super) stopped: u32,
}

struct Member {
    number: usize,
    lives: u32,
    process: Option<Process>,
    /// When the next one is to be started.
    due: u64,
}

struct Process {
    child: Child,
    life: Life,
    /// It is paused since, and until.
    paused: Option<(u64, u64)>,
    /// It was told to stop, and must have by then.
    stopping: Option<u64>,
}

impl Crew {
    pub(super) fn new(address: &str, folder: PathBuf, log: Log, count: usize) -> Self {
        let members = (0..count).map(|number| Member {
            number,
            lives: 0,
            process: None,
            due: 0,
        });
        Self {
            address: address.to_owned(),
            folder,
            log,
            members: members.collect(),
            lives: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn start(&self, number: usize, life: u32) -> Process {
        let worker = format!("w{number}.{life}");
        let errors = self.folder.join(format!("stderr.{worker}"));
        let errors = File::create(errors).expect("a record can be made");
        let this = std::env::current_exe().expect("the test has a file");
        let child = Command::new(this)
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("chaos::child::works_until_it_is_told_to_stop")
            .env(child::ADDRESS, &self.address)
            .env(child::WORKER, &worker)
            .env(child::FOLDER, &self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("a process can be started");
        self.log
            .line(format_args!("{worker} starts as {}", child.id()));
        let life = Life {
            worker,
            killed: u64::MAX,
            pauses: Vec::new(),
        };
        Process {
            child,
            life,
            paused: None,
            stopping: None,
        }
    }

    /// Starts who is due, lets those go on whose pause is over, and notes who has ended.
    pub(super) fn look_after(&mut self) {
        let now = clock::now();
        for at in 0..self.members.len() {
            let (number, lives) = (self.members[at].number, self.members[at].lives);
            if self.members[at].process.is_none() && self.members[at].due <= now {
                let process = self.start(number, lives + 1);
                self.members[at].lives += 1;
                self.members[at].process = Some(process);
            }
            let Some(process) = &mut self.members[at].process else {
                continue;
            };
            if let Some((_, until)) = process.paused
                && until <= now
            {
                process.go_on();
            }
            let late = process.stopping.is_some_and(|until| until < now);
            assert!(!late, "{} does not stop", process.life.worker);
            let Some(status) = process.child.try_wait().expect("it is ours") else {
                continue;
            };
            let worker = &process.life.worker;
            assert!(
                process.stopping.is_some() && status.success(),
                "{worker} ended by itself with {status}"
            );
            self.log.line(format_args!("{worker} has stopped"));
            let process = self.members[at].process.take().expect("it was there");
            self.lives.push(process.life);
            self.members[at].due = now;
        }
    }

    /// Someone who runs and is in no trouble.
    fn choose(&self, random: &mut Rng) -> Option<usize> {
        let at = random.usize(..self.members.len());
        let process = self.members[at].process.as_ref()?;
        process.stopping.is_none().then_some(at)
    }

    /// Kills one, paused or not; it is started again after `later`.
    pub(super) fn kill(&mut self, random: &mut Rng, later: u64) {
        let Some(at) = self.choose(random) else {
            return;
        };
        let mut process = self.members[at].process.take().expect("it was chosen");
        // What it does from here on counts for nobody.
        process.life.killed = clock::now();
        let worker = &process.life.worker;
        self.log.line(format_args!("{worker} is killed"));
        process.child.kill().expect("it was not waited for");
        process.child.wait().expect("it is ours");
        process.end_of_pause();
        self.lives.push(process.life);
        self.members[at].due = clock::now() + later;
        self.counts.killed += 1;
    }

    /// Pauses one.
    pub(super) fn pause(&mut self, random: &mut Rng, length: u64) {
        let Some(at) = self.choose(random) else {
            return;
        };
        let process = self.members[at].process.as_mut().expect("it was chosen");
        if process.paused.is_some() {
            return;
        }
        let from = clock::now();
        support::signal(&process.child, Signal::STOP);
        let (worker, millis) = (&process.life.worker, length / MILLISECOND);
        process.paused = Some((from, from + length));
        self.log
            .line(format_args!("{worker} is paused for {millis} ms"));
        self.counts.paused += 1;
    }

    /// Tells one to stop, with so much time for what it has begun.
    pub(super) fn stop(&mut self, random: &mut Rng, grace: u64) {
        let Some(at) = self.choose(random) else {
            return;
        };
        let process = self.members[at].process.as_mut().expect("it was chosen");
        if process.paused.is_none() {
            self.log
                .line(format_args!("{} is to stop", process.life.worker));
            process.stop(grace);
            self.counts.stopped += 1;
        }
    }

    /// Everybody runs.
    pub(super) fn calm(&mut self) {
        for member in &mut self.members {
            if let Some(process) = &mut member.process {
                process.go_on();
            }
            member.due = 0;
        }
        self.look_after();
    }

    /// Stops all, and says what lives there were.
    pub(super) fn end(mut self) -> (Vec<Life>, Counts) {
        for member in &mut self.members {
            let Some(process) = &mut member.process else {
                continue;
            };
            process.go_on();
            if process.stopping.is_none() {
                process.stop(5_000);
            }
        }
        for member in &mut self.members {
            if let Some(mut process) = member.process.take() {
                let status = support::wait(&mut process.child);
                let worker = &process.life.worker;
                assert!(status.success(), "{worker} ended with {status}");
                self.lives.push(process.life);
            }
        }
        let lives = std::mem::take(&mut self.lives);
        (lives, std::mem::take(&mut self.counts))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(process) = &mut member.process {
                let _ = process.child.kill();
                let _ = process.child.wait();
            }
        }
    }
}

impl Process {
    fn go_on(&mut self) {
        if self.paused.is_some() {
            support::signal(&self.child, Signal::CONT);
            self.end_of_pause();
        }
    }

    fn end_of_pause(&mut self) {
        if let Some((from, _)) = self.paused.take() {
            self.life.pauses.push((from, clock::now()));
        }
    }

    fn stop(&mut self, grace: u64) {
        let mut stdin = self.child.stdin.take().expect("it was piped");
        // An error: it has ended by itself, which is seen soon.
        let _ = writeln!(stdin, "{grace}");
        self.stopping = Some(clock::now() + STOPPING);
    }
}
