//! Tasks, and a worker that leases, reports progress, and tells the outcome.

use bytes::Bytes;

use super::{
    call::{PARENT, Purpose, Reply, Request, state_name},
    event::Event,
    history,
    plan::QUEUES,
    runs::{Crew, Process, Record},
    world::World,
    writer::{Leased, Writer},
};
use crate::{
    client::{short_name, simulated::reason},
    proto::v1::{
        self as pb, Contribution, CreateTaskRequest, Failure, FinishTasksRequest, KeyUpdate,
        LeaseTasksRequest, Payload, RenewLeasesRequest, TaskOutcome, TaskPolicy, WriterMark,
        key_update::Operation, lease_status::Disposition, outcome_result, task_outcome::Outcome,
    },
};

/// Where progress is written, and where successes are counted.
pub(super) const PROGRESS: &str = "s0";

/// How an attempt is meant to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Succeed,
    Fail,
    /// The worker forgets it.
    Abandon,
}

/// One attempt, as its worker sees it.
pub(super) struct Attempt {
    task: String,
    number: i32,
    pub(super) token: Bytes,
    writer: usize,
    way: Way,
    /// Flushes until the end.
    left: u32,
    over: bool,
    told: Option<i32>,
    /// The outcome that stands.
    pub(super) finish: Option<history::Finish<i32>>,
    pub(super) record: Record,
}

impl Attempt {
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn is_to_stop(&mut self) {
        self.left = 0;
    }

    pub(super) fn is_lost(&mut self, now_ms: u64) {
        self.over = true;
        self.record.end(now_ms);
    }

    pub(super) fn run(&self, crew: &Crew) -> history::Run {
        self.record.run(&self.task, self.number, &self.token, crew)
    }
}

/// What is known of a success: the key of the task's progress, and the last of it.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) task: String,
    pub(super) attempt: i32,
    pub(super) key: String,
    pub(super) progress: i64,
}

impl World {
    pub(super) fn submit(&mut self) {
        let number = self.submissions.len();
        let id = self.random_uuid();
        // Some are removed soon after they have ended.
        let kept = self.rng.u8(..3) > 0;
        if kept {
            self.submissions.push(history::Submission {
                request_id: id.clone(),
                acknowledged: Vec::new(),
            });
        }
        let policy = TaskPolicy {
            max_attempts: 4,
            retry_initial_delay: seconds(1),
            retry_max_delay: seconds(5),
            attempt_timeout: if self.rng.u8(..4) == 0 {
                seconds(self.rng.i64(1..10))
            } else {
                None
            },
            retention: seconds(if kept { 86_400 } else { 10 }),
            ..Default::default()
        };
        let task = pb::Task {
            r#type: "work".to_owned(),
            labels: [("kept".to_owned(), kept.to_string())].into(),
            policy: Some(policy),
            queue: QUEUES[self.rng.usize(..QUEUES.len())].to_owned(),
            concurrency_key: ["", "k0", "k1"][self.rng.usize(..3)].to_owned(),
            fairness_key: ["", "f0", "f1"][self.rng.usize(..3)].to_owned(),
            ..Default::default()
        };
        let request = Request::Create(CreateTaskRequest {
            parent: PARENT.to_owned(),
            task_id: String::new(),
            task: Some(task),
            request_id: id,
        });
        let purpose = if kept {
            Purpose::Submit(number)
        } else {
            Purpose::Forget
        };
        self.call(request, purpose);
    }

    pub(super) fn submitted(&mut self, number: usize, answer: pb::CreateTaskResponse) {
        let Some(task) = answer.task else { return };
        self.submissions[number]
            .acknowledged
            .push((task.name, task.uid));
    }

    pub(super) fn ask_for_work(&mut self) {
        let process = self.some_process();
        let request = Request::Lease(LeaseTasksRequest {
            parent: PARENT.to_owned(),
            queues: QUEUES.map(str::to_owned).to_vec(),
            task_types: vec!["work".to_owned()],
            max_tasks: self.rng.i32(1..3),
            wait: seconds(self.rng.i64(0..2)),
            worker_id: process.worker_id(),
            instance_uid: process.instance_uid(),
        });
        self.call(request, Purpose::Lease(process));
    }

    pub(super) fn leased(&mut self, process: Process, answer: pb::LeaseTasksResponse) {
        if !self.crew.lives(process) {
            // Nobody is there to hear it.
            return;
        }
        for lease in answer.leases {
            self.counts.add("task: leased", 1);
            let task = lease.task.expect("a lease has its task");
            let index = self.attempts.len();
            let name = short_name(&task.name).to_owned();
            let leased = Leased {
                token: lease.lease_token.clone(),
                key: format!("progress/{name}"),
                // The revision of the lease: a later one has a higher.
                base: task.revision * 1_000,
            };
            let id = self.rng.u128(..);
            let writer = Writer::new(format!("a{index}"), PROGRESS, id, Some(leased));
            self.writers.push(writer);
            self.attempts.push(Attempt {
                task: task.name,
                number: task.attempt,
                token: lease.lease_token,
                writer: self.writers.len() - 1,
                way: match self.rng.u8(..10) {
                    0..6 => Way::Succeed,
                    6..8 => Way::Fail,
                    _ => Way::Abandon,
                },
                left: self.rng.u32(1..6),
                over: false,
                told: None,
                finish: None,
                record: self.record(process, millis(lease.valid_for.as_ref())),
            });
            self.renew(index);
            self.net.post(6_000 + index as u32, 5, Event::Work(index));
        }
    }

    fn renew(&mut self, index: usize) {
        let process = self.attempts[index].record.process;
        let request = Request::Renew(RenewLeasesRequest {
            lease_tokens: vec![self.attempts[index].token.clone()],
            worker_id: process.worker_id(),
            instance_uid: process.instance_uid(),
        });
        let sent_ms = self.net.now_ms();
        self.call(request, Purpose::Renew(index, sent_ms));
    }

    pub(super) fn renewed(&mut self, index: usize, sent_ms: u64, answer: &pb::RenewLeasesResponse) {
        let Some(status) = answer.statuses.first() else {
            return;
        };
        let now_ms = self.net.now_ms();
        let valid_ms = millis(status.valid_for.as_ref());
        if status.disposition() != Disposition::Lost {
            self.attempts[index].record.renewed(sent_ms, valid_ms);
        }
        match status.disposition() {
            Disposition::Lost => {
                if self.attempts[index].told.is_none() {
                    self.counts.add("task: lease ran out", 1);
                }
                self.attempts[index].over = true;
                self.attempts[index].record.end(now_ms);
            }
            Disposition::CancelRequested => self.attempts[index].left = 0,
            _ => {}
        }
    }

    /// The writer of an attempt was told that the task is to stop.
    pub(super) fn cancel_heard(&mut self, writer: usize) {
        for attempt in &mut self.attempts {
            if attempt.writer == writer {
                attempt.left = 0;
            }
        }
    }

    /// A round of work: say that it lives, write progress, at last tell the outcome.
    pub(super) fn work(&mut self, index: usize) {
        let attempt = &self.attempts[index];
        if attempt.over {
            return;
        }
        let writer = attempt.writer;
        if attempt.left == 0 {
            return self.finish(index);
        }
        if attempt.way == Way::Abandon && attempt.left == 1 {
            return self.stop_working(index, self.net.now_ms());
        }
        self.attempts[index].left -= 1;
        if self.rng.u8(..3) > 0 {
            self.renew(index);
        }
        self.flush(writer);
        let wait_ms = self.rng.u64(20..2_500);
        self.net
            .post(6_000 + index as u32, wait_ms, Event::Work(index));
    }

    /// The attempt's process is gone, and so is its stream.
    pub(super) fn stop_working(&mut self, index: usize, now_ms: u64) {
        let attempt = &mut self.attempts[index];
        attempt.over = true;
        attempt.record.end(now_ms);
        let writer = attempt.writer;
        self.writers[writer].gone = true;
        if let Some(conn) = self.writers[writer].conn.take() {
            self.hang_up(conn);
        }
    }

    fn finish(&mut self, index: usize) {
        let now_ms = self.net.now_ms();
        let writer = self.attempts[index].writer;
        let sequence = self.seal(writer);
        let progress = self.writers[writer].progress();
        let attempt = &mut self.attempts[index];
        attempt.over = true;
        attempt.record.end(now_ms);
        let mark = WriterMark {
            state_name: state_name(PROGRESS),
            writer_id: self.writers[writer].side.writer().to_string(),
            sequence,
        };
        let (status, outcome, contributions) = match attempt.way {
            Way::Fail => {
                let failure = Failure {
                    r#type: "Unlucky".to_owned(),
                    message: "it was drawn".to_owned(),
                    retryable: true,
                    ..Default::default()
                };
                (0, Outcome::Failure(failure), Vec::new())
            }
            Way::Succeed | Way::Abandon => {
                let one = KeyUpdate {
                    key: "done".to_owned(),
                    operation: Some(Operation::Add(integer(1))),
                };
                let contribution = Contribution {
                    state_name: state_name(PROGRESS),
                    updates: vec![one],
                };
                let output = Outcome::Output(Payload::default());
                (
                    pb::task::Status::Succeeded as i32,
                    output,
                    vec![contribution],
                )
            }
        };
        attempt.told = Some(status);
        if status != 0
            && sequence > 0
            && let Some(progress) = progress
        {
            let task = short_name(&attempt.task).to_owned();
            self.done.push(Done {
                key: format!("{PROGRESS}/progress/{task}"),
                task,
                attempt: attempt.number,
                progress,
            });
        }
        let request = Request::Finish(FinishTasksRequest {
            outcomes: vec![TaskOutcome {
                lease_token: attempt.token.clone(),
                outcome: Some(outcome),
                flushed: (sequence > 0).then_some(mark).into_iter().collect(),
                contributions,
            }],
            ..Default::default()
        });
        self.call(request, Purpose::Finish(index));
    }

    pub(super) fn finished(&mut self, index: usize, answer: pb::FinishTasksResponse) {
        let result = answer
            .results
            .into_iter()
            .next()
            .and_then(|result| result.result);
        let attempt = &mut self.attempts[index];
        match result {
            Some(outcome_result::Result::Task(_)) => {
                attempt.record.taken();
                let status = attempt.told.unwrap_or_default();
                if status == 0 {
                    self.counts.add("task: failed and retried", 1);
                    return;
                }
                self.counts.add("task: succeeded", 1);
                attempt.finish = Some(history::Finish {
                    task: attempt.task.clone(),
                    attempt: attempt.number,
                    status,
                });
            }
            Some(outcome_result::Result::Error(error)) => {
                let aborted = tonic::Code::Aborted as i32;
                let not_found = tonic::Code::NotFound as i32;
                self.counts.add("task: outcome refused", 1);
                if error.code != aborted && error.code != not_found {
                    self.broken(format!("an outcome was refused: {error:?}"));
                }
            }
            None => self.broken("an outcome was not answered".to_owned()),
        }
    }

    pub(super) fn cancel_some(&mut self) {
        let known: Vec<_> = self
            .submissions
            .iter()
            .filter_map(|submission| submission.acknowledged.first())
            .map(|(name, _)| name.clone())
            .collect();
        if known.is_empty() {
            return;
        }
        let name = known[self.rng.usize(..known.len())].clone();
        let request = Request::Cancel(pb::CancelTaskRequest {
            name,
            reason: "enough".to_owned(),
            ..Default::default()
        });
        self.call(request, Purpose::Cancel);
    }

    /// A call that the worker or a client made was refused, which some may be.
    pub(super) fn refused(&mut self, status: &tonic::Status) {
        self.counts.add("call: refused", 1);
        let why = reason(status);
        if why == "EPOCH_CHANGED" {
            self.counts.add("call: position of another epoch", 1);
        }
        let expected = [
            "STATE_NOT_FOUND",
            "TASK_NOT_FOUND",
            "TASK_TERMINAL",
            "LEASE_LOST",
            "REVISION_MISMATCH",
            "EPOCH_CHANGED",
            "NAMESPACE_NOT_FOUND",
            "PRECONDITION_FAILED",
        ];
        if !expected.contains(&why.as_str()) {
            self.broken(format!("a call was refused with {why:?}: {status:?}"));
        }
    }
}

pub(super) fn integer(number: i64) -> Bytes {
    use prost::Message;
    let kind = Some(pb::value::Kind::Integer(number));
    pb::Value { kind }.encode_to_vec().into()
}

pub(super) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn millis(duration: Option<&prost_types::Duration>) -> u64 {
    let duration = duration.copied().unwrap_or_default();
    let duration: std::time::Duration = duration.try_into().expect("a short time");
    u64::try_from(duration.as_millis()).expect("a short time")
}

/// The answer of a call by what it was for.
pub(super) fn unexpected(reply: &Reply) -> ! {
    panic!("this is no answer to what was asked: {reply:?}")
}
