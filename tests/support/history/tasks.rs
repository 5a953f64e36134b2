//! What workers, clients and readers recorded of tasks, and whether it keeps what is promised.
//!
//! All times are of one monotonic clock, in whatever unit the caller has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{Checked, ensure};

/// One run of a handler, as its worker recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) task: String,
    pub(crate) attempt: i32,
    /// The lease's token, or what stands for it.
    pub(crate) lease: String,
    /// The worker process.
    pub(crate) worker: String,
    pub(crate) start: u64,
    /// What came first: its end, the death of its process, or the end of the lease as its worker
    /// counts it. A process that is paused runs on until then.
    pub(crate) until: u64,
    /// The server has said that the lease holds: it answered a renewal, or took the outcome. A lease
    /// that was never confirmed may have been over when it arrived.
    pub(crate) confirmed: bool,
    /// When its handler was told to stop.
    pub(crate) told: Option<u64>,
    pub(crate) end: RunEnd,
    /// Its worker was shut down and gave back what it had not told by then.
    pub(crate) may_be_given_back: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// With a result that was to be taken as a success.
    Succeeded,
    /// With any other result, with the lease, or with its process.
    Over,
    /// Its worker was shut down and gave it back; whether the server surely heard of it.
    Released { heard: bool },
}

/// An attempt that a task's record keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) number: i32,
    pub(crate) worker: String,
    /// It ended by a limit of time.
    pub(crate) timed_out: bool,
}

/// What stands of a task in the end.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) terminal: bool,
    pub(crate) succeeded: bool,
    pub(crate) cancelled: bool,
    pub(crate) attempt: i32,
    pub(crate) max_attempts: i32,
    pub(crate) kept: Vec<Kept>,
    /// The lease whose outcome it ended with, as far as its output tells.
    pub(crate) lease: Option<String>,
}

/// The confirmed runs of each task, by their start.
fn by_task(runs: &[Run]) -> BTreeMap<&str, Vec<&Run>> {
    let mut tasks: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.confirmed) {
        tasks.entry(&run.task).or_default().push(run);
    }
    for runs in tasks.values_mut() {
        runs.sort_by_key(|run| (run.start, run.until));
    }
    tasks
}

/// No task runs under two valid leases at once, whatever their workers are: while one believes that
/// its lease holds, no other's handler begins.
pub(crate) fn no_task_runs_under_two_valid_leases(runs: &[Run]) -> Checked {
    for (task, runs) in by_task(runs) {
        let mut holder: Option<&Run> = None;
        // One that began after its lease was over by its own clock never ran under it.
        for run in runs.into_iter().filter(|run| run.until > run.start) {
            if let Some(before) = holder {
                ensure(run.start >= before.until, || {
                    format!(
                        "{task} ran twice at once: attempt {} at {} until {}, attempt {} at {} from {} on",
                        before.attempt,
                        before.worker,
                        before.until,
                        run.attempt,
                        run.worker,
                        run.start
                    )
                })?;
            }
            if holder.is_none_or(|before| run.until > before.until) {
                holder = Some(run);
            }
        }
    }
    Ok(())
}

/// A lease is given to one worker once: a token never comes again.
pub(crate) fn leases_are_given_once(runs: &[Run]) -> Checked {
    let mut given: BTreeMap<&str, &Run> = BTreeMap::new();
    for run in runs {
        let other = given.insert(&run.lease, run);
        ensure(other.is_none(), || {
            format!("a lease was given twice: {other:?} and {run:?}")
        })?;
    }
    Ok(())
}

/// Each attempt that was begun has a higher number than those before it, unless the one before was
/// given back; and no task is tried more often than it may be.
pub(crate) fn attempts_rise_to_their_limit(
    runs: &[Run],
    tasks: &BTreeMap<String, Standing>,
) -> Checked {
    for (task, runs) in by_task(runs) {
        for pair in runs.windows(2) {
            let [before, after] = pair else { continue };
            let again = after.attempt == before.attempt && before.may_be_given_back;
            ensure(after.attempt > before.attempt || again, || {
                format!(
                    "attempt {} of {task} at {} came after attempt {} at {}",
                    after.attempt, after.worker, before.attempt, before.worker
                )
            })?;
        }
        let most = runs.iter().map(|run| run.attempt).max().unwrap_or(0);
        let allowed = tasks.get(task).map_or(i32::MAX, |task| task.max_attempts);
        ensure(most <= allowed, || {
            format!("{task} was tried for the {most}. time, {allowed} are allowed")
        })?;
    }
    for (task, standing) in tasks {
        let Standing {
            attempt,
            max_attempts,
            kept,
            ..
        } = standing;
        ensure(attempt <= max_attempts, || {
            format!("{task} stands at attempt {attempt}, {max_attempts} are allowed")
        })?;
        let rise = kept.windows(2).all(|pair| pair[0].number < pair[1].number);
        let last = kept.last().map_or(0, |kept| kept.number);
        ensure(rise && last == *attempt, || {
            format!("{task} stands at attempt {attempt} and keeps {kept:?}")
        })?;
    }
    Ok(())
}

/// What a worker gave back at its shutdown cost no attempt: the task's record has none of it.
pub(crate) fn released_attempts_cost_nothing(
    runs: &[Run],
    tasks: &BTreeMap<String, Standing>,
) -> Checked {
    let heard = RunEnd::Released { heard: true };
    for run in runs.iter().filter(|run| run.confirmed && run.end == heard) {
        let Some(standing) = tasks.get(&run.task) else {
            continue;
        };
        let mut kept = standing.kept.iter();
        // A number that was given back is used again, perhaps by the same worker: the task may have
        // gone to a question of it that was still open when it shut down. Such a lease costs nothing
        // unless a limit of the attempt ends it, which then is no attempt that was given back.
        let spent = kept.find(|kept| {
            kept.number == run.attempt && kept.worker == run.worker && !kept.timed_out
        });
        ensure(spent.is_none(), || {
            format!(
                "{} gave attempt {} of {} back, and it counts",
                run.worker, run.attempt, run.task
            )
        })?;
    }
    Ok(())
}

/// A success is that of a run which recorded it, under the lease and of the attempt that the task
/// names.
pub(crate) fn successes_come_from_their_runs(
    runs: &[Run],
    tasks: &BTreeMap<String, Standing>,
) -> Checked {
    let by_lease: BTreeMap<&str, &Run> = runs.iter().map(|run| (run.lease.as_str(), run)).collect();
    for (task, standing) in tasks.iter().filter(|(_, task)| task.succeeded) {
        let lease = standing.lease.as_deref().unwrap_or_default();
        let run = by_lease.get(lease);
        let fits = run.is_some_and(|run| {
            let same = run.task == *task && run.attempt == standing.attempt;
            same && run.end == RunEnd::Succeeded
        });
        ensure(fits, || {
            format!(
                "{task} succeeded with attempt {}, and the run that it names is {run:?}",
                standing.attempt
            )
        })?;
    }
    Ok(())
}

/// A task as somebody saw it: in a watch, a list, or an answer.
#[derive(Clone, Debug)]
pub(crate) struct Sighting<V> {
    pub(crate) task: String,
    pub(crate) revision: i64,
    pub(crate) status: V,
}

/// A terminal status never changes and is reached once: all who ever saw a task ended saw it ended
/// alike, at one revision, and nobody saw it otherwise at a later one.
pub(crate) fn tasks_end_once<V: Copy + PartialEq + fmt::Debug>(
    sightings: &[Sighting<V>],
    is_terminal: impl Fn(V) -> bool,
) -> Checked {
    let mut ends: BTreeMap<&str, &Sighting<V>> = BTreeMap::new();
    for seen in sightings.iter().filter(|seen| is_terminal(seen.status)) {
        let end = ends.entry(&seen.task).or_insert(seen);
        ensure(
            end.status == seen.status && end.revision == seen.revision,
            || format!("{} ended twice: {end:?} and {seen:?}", seen.task),
        )?;
    }
    for seen in sightings.iter().filter(|seen| !is_terminal(seen.status)) {
        let end = ends.get(seen.task.as_str());
        ensure(end.is_none_or(|end| seen.revision < end.revision), || {
            format!("{} went on after its end: {end:?} and {seen:?}", seen.task)
        })?;
    }
    Ok(())
}

/// Whoever saw a task at the same revision saw the same.
pub(crate) fn sightings_agree<V: Copy + PartialEq + fmt::Debug>(
    sightings: &[Sighting<V>],
) -> Checked {
    let mut first: BTreeMap<(&str, i64), V> = BTreeMap::new();
    for seen in sightings {
        let place = (seen.task.as_str(), seen.revision);
        let status = *first.entry(place).or_insert(seen.status);
        ensure(status == seen.status, || {
            format!(
                "{} was seen as {status:?} and otherwise: {seen:?}",
                seen.task
            )
        })?;
    }
    Ok(())
}

/// A contribution counts once for each task that succeeded, and for no other.
pub(crate) fn contributions_count_once(what: &str, succeeded: usize, counted: i64) -> Checked {
    ensure(usize::try_from(counted) == Ok(succeeded), || {
        format!("{what}: {succeeded} tasks that contribute succeeded, {counted} count")
    })
}

/// A wish to stop a task that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Cancel {
    pub(crate) task: String,
    /// When the answer came.
    pub(crate) at: u64,
    /// The answer: it is cancelled, and not only asked to stop.
    pub(crate) done: bool,
}

/// Whoever was asked to stop has ended; what was answered as cancelled stayed so, and does not run.
pub(crate) fn cancels_converge(
    cancels: &[Cancel],
    runs: &[Run],
    tasks: &BTreeMap<String, Standing>,
) -> Checked {
    let confirmed = by_task(runs);
    for cancel in cancels {
        let task = &cancel.task;
        let standing = tasks.get(task);
        ensure(standing.is_some_and(|standing| standing.terminal), || {
            format!("{task} was to be cancelled and has not ended: {standing:?}")
        })?;
        if !cancel.done {
            continue;
        }
        ensure(standing.is_some_and(|standing| standing.cancelled), || {
            format!("{task} was answered as cancelled and is not: {standing:?}")
        })?;
        let later = confirmed.get(task.as_str()).into_iter().flatten();
        let later: Vec<_> = later.filter(|run| run.start > cancel.at).collect();
        ensure(later.is_empty(), || {
            format!("{task} was cancelled at {} and ran: {later:?}", cancel.at)
        })?;
    }
    Ok(())
}

/// A handler that runs when its task is asked to stop is told within `bound`, where `calm` says that
/// nothing was in the way of it: its worker and the server lived and ran, from one time to another.
/// Says how often it could be judged.
pub(crate) fn running_handlers_hear_of_cancels(
    cancels: &[Cancel],
    runs: &[Run],
    bound: u64,
    calm: impl Fn(&Run, u64, u64) -> bool,
) -> Result<usize, super::Violation> {
    let mut judged = 0;
    let confirmed = by_task(runs);
    for cancel in cancels {
        let due = cancel.at + bound;
        for run in confirmed.get(cancel.task.as_str()).into_iter().flatten() {
            let running = run.start < cancel.at && run.until > cancel.at;
            if !running || !calm(run, cancel.at, due) {
                continue;
            }
            judged += 1;
            let heard = run.told.is_some_and(|told| told <= due) || run.until <= due;
            ensure(heard, || {
                format!(
                    "{} was asked to stop at {}, and its handler at {} was told at {:?}",
                    cancel.task, cancel.at, run.worker, run.told
                )
            })?;
        }
    }
    Ok(judged)
}

/// All tasks that were submitted have ended.
pub(crate) fn all_tasks_end(tasks: &BTreeMap<String, Standing>) -> Checked {
    let open: BTreeSet<_> = tasks
        .iter()
        .filter(|(_, task)| !task.terminal)
        .map(|(name, _)| name)
        .collect();
    ensure(open.is_empty(), || {
        format!("{} tasks have not ended: {open:?}", open.len())
    })
}

/// Of the runs that a limit holds together, those of one `group`, no more than `most` go on at once
/// under leases that hold. Says how many did.
pub(crate) fn limits_are_kept<'a>(
    runs: &'a [Run],
    most: usize,
    group: impl Fn(&'a str) -> Option<&'a str>,
) -> Result<usize, super::Violation> {
    let mut groups: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    // One that began after its lease was over by its own clock never ran under it.
    let held = |run: &&Run| run.confirmed && run.until > run.start;
    for run in runs.iter().filter(held) {
        if let Some(group) = group(&run.task) {
            groups.entry(group).or_default().push(run);
        }
    }
    let mut seen = 0;
    for (group, mut runs) in groups {
        runs.sort_by_key(|run| run.start);
        let mut going_on: Vec<&Run> = Vec::new();
        for run in runs {
            going_on.retain(|before| before.until > run.start);
            going_on.push(run);
            seen = seen.max(going_on.len());
            ensure(going_on.len() <= most, || {
                let which = going_on.iter().map(|run| (&run.task, &run.worker));
                format!(
                    "{} of {group} ran at once at {}, {most} may: {:?}",
                    going_on.len(),
                    run.start,
                    which.collect::<Vec<_>>()
                )
            })?;
        }
    }
    Ok(seen)
}

/// A time in which a queue was paused for sure: from the answer of the call that paused it until the
/// one was sent that resumed it. By the clock that leases are stamped with.
#[derive(Clone, Debug)]
pub(crate) struct Pause {
    pub(crate) queue: String,
    pub(crate) from: i64,
    pub(crate) until: i64,
}

/// A task was given to a worker, confirmed or not: when, as its lease says.
#[derive(Clone, Debug)]
pub(crate) struct HandedOut {
    pub(crate) task: String,
    pub(crate) at: i64,
}

/// A queue hands out nothing while it is paused.
pub(crate) fn pauses_hold<'a>(
    pauses: &[Pause],
    handed_out: &'a [HandedOut],
    queue: impl Fn(&'a str) -> Option<&'a str>,
) -> Checked {
    for one in handed_out {
        let of_it = |pause: &&Pause| queue(&one.task) == Some(&pause.queue);
        let within = |pause: &&Pause| pause.from < one.at && one.at < pause.until;
        let broken = pauses.iter().filter(within).find(of_it);
        ensure(broken.is_none(), || {
            format!("{one:?} came out of a queue that was paused: {broken:?}")
        })?;
    }
    Ok(())
}

/// A task that repeats another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repetition {
    /// The name of what it repeats.
    pub(crate) of: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Of each task at most one repetition exists, that which whoever asked for it was told of; and only
/// what failed or was cancelled is repeated. `told`: by RetryTasks; `standing`: all there are.
pub(crate) fn repetitions_exist_once(
    told: &[Repetition],
    standing: &[Repetition],
    tasks: &BTreeMap<String, Standing>,
) -> Checked {
    let mut by_original: BTreeMap<&str, &Repetition> = BTreeMap::new();
    for repetition in standing {
        let other = by_original.insert(&repetition.of, repetition);
        ensure(other.is_none(), || {
            format!(
                "{} was repeated twice: {other:?} and {repetition:?}",
                repetition.of
            )
        })?;
        let original = tasks.get(&repetition.of);
        let ended_badly = original.is_some_and(|task| task.terminal && !task.succeeded);
        ensure(ended_badly, || {
            format!("{repetition:?} repeats what did not end badly: {original:?}")
        })?;
    }
    for repetition in told {
        let stands = by_original.get(repetition.of.as_str());
        ensure(stands == Some(&repetition), || {
            format!("{repetition:?} was acknowledged, and what stands is {stands:?}")
        })?;
    }
    Ok(())
}
