//! Worker processes, and what they record of the runs of their handlers: for the checks of tasks.

use bytes::Bytes;

use super::{
    call::{PARENT, Purpose, Request},
    event::{ConnId, Event, Heard, Opening},
    history::{Cancel, Kept, Run, RunEnd, Standing},
    net::LaneId,
    world::{Who, World},
};
use crate::proto::v1::{
    self as pb, lease_status::Disposition, task::Status as TaskStatus, watch_leases_response::Frame,
};

/// Workers; each is one process after the other.
const WORKERS: usize = 3;

/// One life of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    number: usize,
    life: u32,
}

impl Process {
    pub(super) fn worker_id(self) -> String {
        format!("worker{}.{}", self.number, self.life)
    }

    pub(super) fn instance_uid(self) -> String {
        let number = (self.number as u128) << 32 | u128::from(self.life);
        uuid::Uuid::from_u128(0x4111 << 64 | number).to_string()
    }
}

/// Lane of what workers do by themselves.
const CREW_LANE: LaneId = 9_000;

/// Who works, and what was said of tasks.
#[derive(Debug, Default)]
pub(super) struct Crew {
    lives: [u32; WORKERS],
    /// Each one's stream for news of its leases.
    streams: [Option<ConnId>; WORKERS],
    pub(super) cancels: Vec<Cancel>,
    /// When the store was replaced by an older one, which ends all that is known of leases.
    restored_ms: Vec<u64>,
}

impl Crew {
    pub(super) fn lives(&self, process: Process) -> bool {
        self.lives[process.number] == process.life
    }

    /// An older store is there: what was acknowledged since is forgiven.
    pub(super) fn restored(&mut self, now_ms: u64) {
        self.cancels.clear();
        self.restored_ms.push(now_ms);
    }
}

/// A handler's run, as its worker knows it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) process: Process,
    start_ms: u64,
    /// The end of the lease as the worker counts it.
    until_ms: u64,
    confirmed: bool,
    ended_ms: Option<u64>,
    /// It was given back; whether the server surely heard of it.
    given_back: Option<bool>,
    /// Restores before it.
    era: usize,
}

impl Record {
    /// The server has answered a renewal that was sent then: the lease holds.
    pub(super) fn renewed(&mut self, sent_ms: u64, valid_ms: u64) {
        self.confirmed = true;
        self.until_ms = self.until_ms.max(sent_ms + valid_ms);
    }

    /// The server has taken the outcome.
    pub(super) fn taken(&mut self) {
        self.confirmed = true;
    }

    pub(super) fn end(&mut self, now_ms: u64) {
        self.ended_ms.get_or_insert(now_ms);
    }

    pub(super) fn run(&self, task: &str, attempt: i32, token: &Bytes, crew: &Crew) -> Run {
        let restored = crew.restored_ms.get(self.era).copied();
        let ends = [self.ended_ms, restored, Some(self.until_ms)];
        let task = match crew.restored_ms.len() {
            0 => task.to_owned(),
            // A task of an older store begins anew.
            _ => format!("{task} after {} restores", self.era),
        };
        Run {
            task,
            attempt,
            lease: format!("{token:?}"),
            worker: self.process.worker_id(),
            start: self.start_ms,
            until: ends.into_iter().flatten().min().unwrap_or(self.until_ms),
            confirmed: self.confirmed,
            told: None,
            end: match self.given_back {
                Some(heard) => RunEnd::Released { heard },
                None => RunEnd::Over,
            },
            may_be_given_back: self.given_back.is_some(),
        }
    }
}

impl World {
    /// A worker that lives.
    pub(super) fn some_process(&mut self) -> Process {
        let number = self.rng.usize(..WORKERS);
        let life = self.crew.lives[number];
        Process { number, life }
    }

    pub(super) fn record(&self, process: Process, valid_ms: u64) -> Record {
        let start_ms = self.net.now_ms();
        Record {
            process,
            start_ms,
            until_ms: start_ms + valid_ms,
            confirmed: false,
            ended_ms: None,
            given_back: None,
            era: self.crew.restored_ms.len(),
        }
    }

    // The streams of workers.

    pub(super) fn connect_workers(&mut self) {
        for number in 0..WORKERS {
            let life = self.crew.lives[number];
            self.connect_worker(Process { number, life });
        }
    }

    pub(super) fn connect_worker(&mut self, process: Process) {
        if !self.crew.lives(process) || self.crew.streams[process.number].is_some() {
            return;
        }
        let opening = Opening::Leases(pb::WatchLeasesRequest {
            parent: PARENT.to_owned(),
            worker_id: process.worker_id(),
            instance_uid: process.instance_uid(),
        });
        let conn = self.connect(Who::Worker(process), opening);
        self.crew.streams[process.number] = Some(conn);
    }

    pub(super) fn worker_disconnected(&mut self, process: Process) {
        if !self.crew.lives(process) {
            return;
        }
        self.crew.streams[process.number] = None;
        let wait_ms = self.backoff_ms();
        let lane = CREW_LANE + process.number as LaneId;
        self.net.post(lane, wait_ms, Event::ConnectWorker(process));
    }

    pub(super) fn worker_hears(&mut self, process: Process, heard: Heard) {
        let frame = match heard {
            Heard::Leases(response) => response.frame,
            Heard::End(_) => return self.worker_disconnected(process),
            other => panic!("a worker does not hear {other:?}"),
        };
        let Some(Frame::Directive(directive)) = frame else {
            return;
        };
        let token = &directive.lease_token;
        let meant = self.attempts.iter().position(|a| a.token == token);
        let Some(index) = meant else { return };
        match directive.disposition() {
            Disposition::CancelRequested => {
                self.counts.add("task: told to stop by the stream", 1);
                self.attempts[index].is_to_stop();
            }
            Disposition::Lost => {
                self.counts.add("task: told of a loss by the stream", 1);
                let now_ms = self.net.now_ms();
                self.attempts[index].is_lost(now_ms);
            }
            _ => {}
        }
    }

    /// The process is gone, or goes; another takes its place. What it had not ended.
    fn end_process(&mut self, process: Process) -> Vec<usize> {
        if let Some(conn) = self.crew.streams[process.number].take() {
            self.hang_up(conn);
        }
        self.crew.lives[process.number] += 1;
        let life = self.crew.lives[process.number];
        self.connect_worker(Process { life, ..process });
        let now_ms = self.net.now_ms();
        let attempts = self.attempts.iter().enumerate();
        let open = attempts.filter(|(_, a)| !a.is_over() && a.record.process == process);
        let open: Vec<_> = open.map(|(index, _)| index).collect();
        for index in &open {
            self.stop_working(*index, now_ms);
        }
        open
    }

    /// kill -9 of a worker.
    pub(super) fn kill_a_worker(&mut self) {
        let process = self.some_process();
        self.counts.add("fault: worker killed", 1);
        self.end_process(process);
    }

    /// A worker process shuts down, and gives back what it has not ended.
    pub(super) fn give_back(&mut self) {
        let process = self.some_process();
        let given = self.end_process(process);
        let mut lease_tokens = Vec::new();
        for index in &given {
            let attempt = &mut self.attempts[*index];
            attempt.record.given_back = Some(false);
            lease_tokens.push(attempt.token.clone());
        }
        if !given.is_empty() {
            let request = pb::ReleaseLeasesRequest { lease_tokens };
            self.call(Request::Release(request), Purpose::Release(given));
        }
    }

    pub(super) fn given_back(&mut self, given: &[usize]) {
        self.counts.add("task: given back", given.len() as u64);
        let now_ms = self.net.now_ms();
        for index in given {
            let record = &mut self.attempts[*index].record;
            // Its lease held all the while, so that it was there to be given back.
            let held = record.confirmed && record.until_ms > now_ms;
            record.given_back = Some(held);
        }
    }

    pub(super) fn cancelled(&mut self, answer: pb::CancelTaskResponse) {
        let task = answer.task.expect("an answer has its task");
        self.crew.cancels.push(Cancel {
            at: self.net.now_ms(),
            done: task.status() == TaskStatus::Cancelled,
            task: task.name,
        });
    }

    pub(super) fn runs(&self) -> Vec<Run> {
        let attempts = self.attempts.iter();
        attempts.map(|attempt| attempt.run(&self.crew)).collect()
    }
}

pub(super) fn standing(task: &pb::Task) -> Standing {
    use TaskStatus::{Cancelled, Failed, Succeeded};
    let kept = task.attempts.iter().map(|attempt| Kept {
        number: attempt.number,
        worker: attempt.worker_id.clone(),
        timed_out: attempt
            .failure
            .as_ref()
            .is_some_and(|failure| failure.category() == pb::failure::Category::Timeout),
    });
    let policy = task.policy.as_ref();
    Standing {
        terminal: matches!(task.status(), Succeeded | Failed | Cancelled),
        succeeded: task.status() == Succeeded,
        cancelled: task.status() == Cancelled,
        attempt: task.attempt,
        max_attempts: policy.map_or(0, |policy| policy.max_attempts),
        kept: kept.collect(),
        lease: None,
    }
}
