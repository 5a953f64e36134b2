//! What was seen, held against each promise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
};

use duite::{
    client::short_name,
    proto::v1::{self as pb, task::Status as TaskStatus},
};
use tonic::{Code, transport::Channel};

use super::{
    COUNTS, DONE, LIVE_STATES,
    child::last_progress,
    clients::Seen,
    clock::{MILLISECOND, SECOND},
    follow,
    queues::{LIMITED, MAX_RUNNING, MAX_RUNNING_PER_KEY, PAUSED},
    records::{self, Life},
    retries,
};
use crate::{
    crash::is_terminal,
    history::{
        self, Cancel, HandedOut, Kept, Pause, Repetition, Run, RunEnd, Sighting, Standing, Stream,
        View,
    },
    wire::{self, States, as_integer},
};

/// A handler that runs undisturbed is told of a cancel within this: the promise is 100 ms on a quiet
/// machine, and this one is busy.
const TOLD_WITHIN: u64 = 3 * SECOND;

/// What everybody brought.
pub(super) struct Evidence<'a> {
    pub(super) folder: &'a Path,
    pub(super) lives: Vec<Life>,
    /// When the server was away, frozen or cut off.
    pub(super) disturbed: Vec<(u64, u64)>,
    pub(super) clients: Vec<Seen>,
    /// When a queue was paused for sure.
    pub(super) pauses: Vec<Pause>,
    pub(super) watched: Vec<Vec<Stream<TaskStatus>>>,
    /// All tasks, as the server says in the end.
    pub(super) tasks: Vec<pb::Task>,
    /// And the states' keys.
    pub(super) states: BTreeMap<String, i64>,
}

/// Panics where a promise is broken; says what was judged.
pub(super) fn pass(evidence: &Evidence<'_>) -> String {
    let Evidence { tasks, .. } = evidence;
    let stand: BTreeMap<String, Standing> = tasks
        .iter()
        .map(|task| (task.name.clone(), standing(task)))
        .collect();
    let runs = evidence.runs(&stand);
    let clients = &evidence.clients;

    let submissions = clients.iter().flat_map(|seen| seen.submissions.clone());
    let submissions: Vec<_> = submissions.collect();
    let asked_for = tasks.iter().filter(|task| task.retry_of.is_empty());
    let listed: Vec<_> = asked_for
        .map(|task| (task.name.clone(), task.uid.clone()))
        .collect();
    kept(history::acknowledged_tasks_stand_once(
        &submissions,
        &listed,
    ));
    kept(history::all_tasks_end(&stand));
    let told = clients.iter().flat_map(|seen| seen.repetitions.clone());
    let told: Vec<Repetition> = told.collect();
    let repeated: Vec<Repetition> = tasks.iter().filter_map(retries::repetition).collect();
    kept(history::repetitions_exist_once(&told, &repeated, &stand));

    kept(history::leases_are_given_once(&runs));
    kept(history::no_task_runs_under_two_valid_leases(&runs));
    kept(history::attempts_rise_to_their_limit(&runs, &stand));
    kept(history::successes_come_from_their_runs(&runs, &stand));
    kept(history::released_attempts_cost_nothing(&runs, &stand));
    let (most, most_of_a_key) = evidence.limits_are_kept(&runs);
    let handed_out = evidence.pauses_hold();

    let mut sightings: Vec<Sighting<TaskStatus>> = Vec::new();
    sightings.extend(clients.iter().flat_map(|seen| seen.sightings.clone()));
    sightings.extend(evidence.watched.iter().flat_map(|w| follow::sightings(w)));
    sightings.extend(tasks.iter().map(|task| Sighting {
        task: task.name.clone(),
        revision: task.revision,
        status: task.status(),
    }));
    kept(history::tasks_end_once(&sightings, is_terminal));
    kept(history::sightings_agree(&sightings));

    let contributed = tasks.iter().filter(|task| {
        task.status() == TaskStatus::Succeeded && task.labels.contains_key("contributes")
    });
    let contributed = contributed.count();
    let counted = evidence.states.get(&format!("{COUNTS}/{DONE}"));
    let counted = counted.copied().unwrap_or(0);
    kept(history::contributions_count_once(
        DONE,
        contributed,
        counted,
    ));
    let live = evidence.last_progress_stands();

    let cancels = clients.iter().flat_map(|seen| seen.cancels.clone());
    let cancels: Vec<Cancel> = cancels.collect();
    kept(history::cancels_converge(&cancels, &runs, &stand));
    let heard =
        history::running_handlers_hear_of_cancels(&cancels, &runs, TOLD_WITHIN, |run, from, to| {
            evidence.is_calm(&run.worker, from, to)
        });
    let heard = sound(heard);

    let truth: View<TaskStatus> = tasks
        .iter()
        .map(|task| (task.name.clone(), (task.status(), task.revision)))
        .collect();
    for streams in &evidence.watched {
        kept(history::revisions_never_go_back(streams));
        kept(history::deltas_chain(streams));
        kept(history::changes_lie_between_positions(streams));
        kept(history::tokens_resume(streams));
        kept(history::terminal_statuses_stay(streams, is_terminal));
        kept(history::view_ends_as(streams, &truth));
    }
    summary(
        evidence,
        &runs,
        &cancels,
        &[
            ("contributions", contributed),
            ("last progresses", live),
            ("cancels judged for time", heard),
            ("repetitions", repeated.len()),
            ("at once under a limit", most),
            ("at once of a key", most_of_a_key),
            ("pauses", evidence.pauses.len()),
            ("handed out by the queue that was paused", handed_out),
        ],
    )
}

#[track_caller]
fn kept(checked: history::Checked) {
    sound(checked);
}

#[track_caller]
fn sound<T>(checked: Result<T, history::Violation>) -> T {
    checked.unwrap_or_else(|violation| panic!("a promise is broken: {violation}"))
}

fn standing(task: &pb::Task) -> Standing {
    let output = task.output.as_ref();
    let output = output.and_then(|output| serde_json::from_slice(&output.data).ok());
    let lease = output.and_then(|output: serde_json::Value| {
        let lease = output.get("lease")?.as_str()?;
        Some(lease.to_owned())
    });
    let kept = task.attempts.iter().map(|attempt| Kept {
        number: attempt.number,
        worker: attempt.worker_id.clone(),
        timed_out: attempt
            .failure
            .as_ref()
            .is_some_and(|failure| failure.category() == pb::failure::Category::Timeout),
    });
    let policy = task.policy.as_ref().expect("a task tells its policy");
    Standing {
        terminal: is_terminal(task.status()),
        succeeded: task.status() == TaskStatus::Succeeded,
        cancelled: task.status() == TaskStatus::Cancelled,
        attempt: task.attempt,
        max_attempts: policy.max_attempts,
        kept: kept.collect(),
        lease,
    }
}

impl Evidence<'_> {
    fn runs(&self, tasks: &BTreeMap<String, Standing>) -> Vec<Run> {
        let lives = self.lives.iter();
        let mut runs: Vec<Run> = lives
            .flat_map(|life| {
                records::runs(self.folder, life, |from, to| {
                    self.is_calm(&life.worker, from, to)
                })
            })
            .collect();
        // What ended its task was a lease that held, even if no renewal was answered before.
        let ended = tasks.values().filter_map(|task| task.lease.as_deref());
        let ended: BTreeSet<&str> = ended.collect();
        for run in &mut runs {
            run.confirmed |= ended.contains(run.lease.as_str());
        }
        runs
    }

    /// Whether the server, and this worker, could be reached all the time.
    fn is_calm(&self, worker: &str, from: u64, to: u64) -> bool {
        let meets = |(since, until): &(u64, u64)| *since < to && *until > from;
        let life = self.lives.iter().find(|life| life.worker == worker);
        let alive = life.is_some_and(|life| life.killed > to && !life.pauses.iter().any(meets));
        alive && !self.disturbed.iter().any(meets)
    }

    /// Says how many ran at once where they are limited, in all and of one key.
    fn limits_are_kept(&self, runs: &[Run]) -> (usize, usize) {
        let limited = self.tasks.iter().filter(|task| task.queue == LIMITED);
        let keys = limited.map(|task| (task.name.as_str(), task.concurrency_key.as_str()));
        let keys: BTreeMap<&str, &str> = keys.collect();
        let all = history::limits_are_kept(runs, MAX_RUNNING as usize, |task| {
            keys.get(task).map(|_| LIMITED)
        });
        let of_a_key = history::limits_are_kept(runs, MAX_RUNNING_PER_KEY as usize, |task| {
            keys.get(task).copied().filter(|key| !key.is_empty())
        });
        (sound(all), sound(of_a_key))
    }

    /// Says how many tasks were handed out by the queue that was paused at times.
    fn pauses_hold(&self) -> usize {
        let queues = self.tasks.iter();
        let queues = queues.map(|task| (task.name.as_str(), task.queue.as_str()));
        let queues: BTreeMap<&str, &str> = queues.collect();
        let lives = self.lives.iter();
        let handed_out = lives.flat_map(|life| records::handed_out(self.folder, life));
        let mut handed_out: Vec<HandedOut> = handed_out.collect();
        handed_out.retain(|one| queues.get(one.task.as_str()) == Some(&PAUSED));
        kept(history::pauses_hold(&self.pauses, &handed_out, |task| {
            queues.get(task).copied()
        }));
        handed_out.len()
    }

    /// What a task that succeeded wrote last is what stands; says of how many.
    fn last_progress_stands(&self) -> usize {
        let mut judged = 0;
        for task in &self.tasks {
            let (Some(live), TaskStatus::Succeeded) = (task.labels.get("live"), task.status())
            else {
                continue;
            };
            // It waited in vain, and says so: its worker was killed with what it had written.
            if task.flush_incomplete {
                continue;
            }
            let live: usize = live.parse().expect("a number of ours");
            let key = format!("{}/{}", LIVE_STATES[live], short_name(&task.name));
            let stands = self.states.get(&key).copied();
            let last = last_progress(task.attempt);
            assert_eq!(
                stands,
                Some(last),
                "a promise is broken: the last progress of {} is not what stands",
                task.name
            );
            judged += 1;
        }
        judged
    }
}

/// All keys of the states of the test, as `STATE/KEY`.
pub(super) async fn read_states(channel: &Channel) -> BTreeMap<String, i64> {
    let mut keys = BTreeMap::new();
    for state in LIVE_STATES.into_iter().chain([COUNTS]) {
        let request = pb::GetStateRequest {
            name: wire::state_name(state),
            ..pb::GetStateRequest::default()
        };
        let read = match States::new(channel.clone()).get_state(request).await {
            // Nobody wrote to it.
            Err(status) if status.code() == Code::NotFound => continue,
            read => read.expect("the state can be read").into_inner(),
        };
        for entry in read.state.expect("an answer has its state").entries {
            let key = format!("{state}/{}", entry.key);
            keys.insert(key, as_integer(&entry.value));
        }
    }
    keys
}

/// What the run met, for people who doubt that it met enough.
fn summary(
    evidence: &Evidence<'_>,
    runs: &[Run],
    cancels: &[Cancel],
    more: &[(&str, usize)],
) -> String {
    let count = |wanted: TaskStatus| {
        let tasks = evidence.tasks.iter();
        tasks.filter(|task| task.status() == wanted).count()
    };
    let of_runs = |fits: fn(&&Run) -> bool| runs.iter().filter(fits).count();
    // Begun with an answer that was late: its lease was over, which its first renewal told.
    let stale = of_runs(|run| !run.confirmed);
    let asked_again = evidence.clients.iter().flat_map(|seen| &seen.submissions);
    let asked_again = asked_again.filter(|s| s.acknowledged.len() > 1).count();
    let mut text = format!(
        "{} tasks ({} succeeded, {} failed, {} cancelled, {asked_again} submitted again), {} runs ({} given back surely, {stale} not confirmed)",
        evidence.tasks.len(),
        count(TaskStatus::Succeeded),
        count(TaskStatus::Failed),
        count(TaskStatus::Cancelled),
        runs.len(),
        of_runs(|run| run.end == RunEnd::Released { heard: true }),
    );
    let attempts = evidence.tasks.iter().map(|task| task.attempt).max();
    let _ = write!(
        text,
        ", {} cancels, at most {} attempts",
        cancels.len(),
        attempts.unwrap_or(0)
    );
    for (what, count) in more {
        let _ = write!(text, ", {count} {what}");
    }
    let streams: usize = evidence.watched.iter().map(Vec::len).sum();
    let shortest = runs.iter().map(|run| run.until.saturating_sub(run.start));
    let longest = shortest.max().unwrap_or(0) / MILLISECOND;
    let _ = write!(text, ", {streams} watches, longest run {longest} ms");
    text
}
