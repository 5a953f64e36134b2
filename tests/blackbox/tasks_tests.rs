//! The same for the checks of tasks: each passes a good history and fails one that was tampered with.

use std::collections::BTreeMap;

use crate::history::*;

#[track_caller]
fn breaks(checked: Checked, what: &str) {
    let violation = checked.expect_err("a history that was tampered with passed");
    assert!(violation.0.contains(what), "{violation}");
}

fn run(worker: &str, attempt: i32, start: u64, until: u64) -> Run {
    Run {
        task: "t".into(),
        attempt,
        lease: format!("lease of {worker} from {start}"),
        worker: worker.into(),
        start,
        until,
        confirmed: true,
        told: None,
        end: RunEnd::Over,
        may_be_given_back: false,
    }
}

/// Two attempts, one after the other; the second succeeds.
fn runs() -> Vec<Run> {
    let mut second = run("b", 2, 20, 30);
    second.end = RunEnd::Succeeded;
    vec![run("a", 1, 0, 20), second]
}

fn standing() -> Standing {
    let kept = |number, worker: &str| Kept {
        number,
        worker: worker.into(),
        timed_out: false,
    };
    Standing {
        terminal: true,
        succeeded: true,
        cancelled: false,
        attempt: 2,
        max_attempts: 3,
        kept: vec![kept(1, "a"), kept(2, "b")],
        lease: Some("lease of b from 20".into()),
    }
}

fn tasks(standing: Standing) -> BTreeMap<String, Standing> {
    BTreeMap::from([("t".into(), standing)])
}

/// Whatever of a standing is changed.
fn changed(change: impl FnOnce(&mut Standing)) -> BTreeMap<String, Standing> {
    let mut standing = standing();
    change(&mut standing);
    tasks(standing)
}

#[test]
fn good_runs_pass() {
    let (runs, tasks) = (runs(), tasks(standing()));
    no_task_runs_under_two_valid_leases(&runs).unwrap();
    leases_are_given_once(&runs).unwrap();
    attempts_rise_to_their_limit(&runs, &tasks).unwrap();
    successes_come_from_their_runs(&runs, &tasks).unwrap();
    released_attempts_cost_nothing(&runs, &tasks).unwrap();
    all_tasks_end(&tasks).unwrap();
}

#[test]
fn the_checker_finds_a_task_that_runs_under_two_valid_leases() {
    let check = |tamper: fn(&mut Vec<Run>)| {
        let mut runs = runs();
        tamper(&mut runs);
        no_task_runs_under_two_valid_leases(&runs)
    };
    breaks(check(|runs| runs[1].start = 19), "ran twice at once");
    breaks(check(|runs| runs[0].until = 21), "ran twice at once");
    // The first holds on while a third comes and goes.
    breaks(
        check(|runs| {
            runs[0].until = 100;
            runs[1].confirmed = false;
            runs.push(run("c", 3, 40, 41));
        }),
        "attempt 3 at c from 40",
    );
    // Another task's runs, and those whose leases were over when they came, are no matter.
    check(|runs| {
        runs[1].start = 19;
        runs[1].task = "other".into();
    })
    .unwrap();
    check(|runs| runs.push(run("late", 1, 25, 25))).unwrap();
    check(|runs| {
        let mut stale = run("stale", 1, 25, 40);
        stale.confirmed = false;
        runs.push(stale);
    })
    .unwrap();
}

#[test]
fn the_checker_finds_a_lease_that_was_given_twice() {
    let mut runs = runs();
    runs[1].lease = runs[0].lease.clone();
    breaks(leases_are_given_once(&runs), "given twice");
}

#[test]
fn the_checker_finds_attempts_that_do_not_rise_or_are_too_many() {
    let check = |runs: &[Run]| attempts_rise_to_their_limit(runs, &tasks(standing()));
    let mut again = runs();
    again[1].attempt = 1;
    breaks(check(&again), "attempt 1 of t at b came after attempt 1");
    again[0].may_be_given_back = true;
    check(&again).unwrap();
    again[0].attempt = 3;
    breaks(check(&again), "came after attempt 3");
    let mut many = runs();
    many[1].attempt = 4;
    breaks(check(&many), "for the 4. time");

    let check = |tasks| attempts_rise_to_their_limit(&[], &tasks);
    breaks(
        check(changed(|task| task.max_attempts = 1)),
        "1 are allowed",
    );
    breaks(check(changed(|task| task.attempt = 1)), "keeps");
    breaks(check(changed(|task| task.kept[0].number = 2)), "keeps");
}

#[test]
fn the_checker_finds_a_release_that_cost_an_attempt() {
    let mut runs = runs();
    runs[0].end = RunEnd::Released { heard: true };
    let cost = released_attempts_cost_nothing(&runs, &tasks(standing()));
    breaks(cost, "gave attempt 1 of t back");
    // The next worker's attempt has the same number.
    let free = changed(|task| {
        task.kept.remove(0);
        task.kept[0].number = 1;
    });
    released_attempts_cost_nothing(&runs, &free).unwrap();
    // The server may not have heard of it.
    runs[0].end = RunEnd::Released { heard: false };
    released_attempts_cost_nothing(&runs, &tasks(standing())).unwrap();
}

#[test]
fn the_checker_finds_a_success_that_no_run_recorded() {
    let check = |runs: &[Run], tasks| successes_come_from_their_runs(runs, &tasks);
    breaks(check(&runs()[..1], tasks(standing())), "names is None");
    breaks(check(&runs(), changed(|task| task.attempt = 1)), "names");
    breaks(check(&runs(), changed(|task| task.lease = None)), "None");
    let mut failed = runs();
    failed[1].end = RunEnd::Over;
    breaks(check(&failed, tasks(standing())), "names");
    check(&failed, changed(|task| task.succeeded = false)).unwrap();
}

fn seen(revision: i64, status: i32) -> Sighting<i32> {
    Sighting {
        task: "t".into(),
        revision,
        status,
    }
}

#[test]
fn the_checker_finds_a_task_that_ends_twice_or_goes_on() {
    let check = |seen: &[Sighting<i32>]| tasks_end_once(seen, |status| status > 3);
    // In any order, and as often as it is looked at.
    check(&[seen(9, 4), seen(2, 1), seen(5, 3), seen(9, 4)]).unwrap();
    breaks(check(&[seen(9, 4), seen(9, 5)]), "ended twice");
    breaks(check(&[seen(9, 4), seen(12, 4)]), "ended twice");
    breaks(check(&[seen(9, 4), seen(12, 3)]), "went on after its end");
    breaks(check(&[seen(12, 3), seen(9, 4)]), "went on after its end");
}

#[test]
fn the_checker_finds_two_who_saw_a_task_differently() {
    sightings_agree(&[seen(2, 1), seen(5, 3), seen(2, 1)]).unwrap();
    breaks(sightings_agree(&[seen(2, 1), seen(2, 3)]), "otherwise");
}

#[test]
fn the_checker_finds_contributions_that_are_lost_or_doubled() {
    contributions_count_once("done", 3, 3).unwrap();
    for counted in [2, 4, -3] {
        breaks(contributions_count_once("done", 3, counted), "3 tasks");
    }
}

fn cancel(at: u64, done: bool) -> Cancel {
    Cancel {
        task: "t".into(),
        at,
        done,
    }
}

#[test]
fn the_checker_finds_a_cancel_that_does_not_converge() {
    let check = |cancel, tasks| cancels_converge(&[cancel], &runs(), &tasks);
    let cancelled = || {
        changed(|task| {
            task.succeeded = false;
            task.cancelled = true;
        })
    };
    check(cancel(25, false), tasks(standing())).unwrap();
    check(cancel(25, true), cancelled()).unwrap();
    let open = changed(|task| task.terminal = false);
    breaks(check(cancel(25, false), open.clone()), "has not ended");
    breaks(all_tasks_end(&open), "have not ended");
    breaks(check(cancel(25, false), BTreeMap::new()), "has not ended");
    breaks(check(cancel(25, true), tasks(standing())), "and is not");
    breaks(check(cancel(15, true), cancelled()), "was cancelled at 15");
}

#[test]
fn the_checker_finds_a_handler_that_is_told_late_or_never() {
    let check = |runs: &[Run], calm: bool| {
        running_handlers_hear_of_cancels(&[cancel(5, false)], runs, 3, |_, from, to| {
            assert_eq!((from, to), (5, 8));
            calm
        })
    };
    let told = |told| {
        let mut runs = runs();
        runs[0].told = told;
        runs
    };
    assert_eq!(check(&told(Some(8)), true).unwrap(), 1);
    breaks(check(&told(Some(9)), true).map(drop), "told at Some(9)");
    breaks(check(&told(None), true).map(drop), "told at None");
    assert_eq!(check(&told(None), false).unwrap(), 0);
    let mut short = told(None);
    short[0].until = 7;
    assert_eq!(check(&short, true).unwrap(), 1);
}

#[test]
fn the_checker_finds_a_limit_that_was_exceeded() {
    // Two at once, of the keys that begin the names of the tasks.
    let good = || {
        let of = |task: &str, start, until| Run {
            task: task.into(),
            ..run(task, 1, start, until)
        };
        vec![
            of("a1", 0, 10),
            of("b1", 5, 20),
            of("a2", 10, 30),
            of("b2", 20, 40),
        ]
    };
    let check = |runs: &[Run], most| limits_are_kept(runs, most, |_| Some("queue"));
    let of_a_key = |runs: &[Run]| limits_are_kept(runs, 1, |task| task.get(..1));
    assert_eq!(check(&good(), 2), Ok(2));
    assert_eq!(of_a_key(&good()), Ok(1));
    breaks(check(&good(), 1).map(drop), "2 of queue ran at once at 5");
    let mut longer = good();
    longer[0].until = 11;
    breaks(check(&longer, 2).map(drop), "3 of queue ran at once at 10");
    breaks(of_a_key(&longer).map(drop), "2 of a ran at once at 10");
    // The order in which they are told is no matter.
    longer.reverse();
    breaks(check(&longer, 2).map(drop), "3 of queue");
    // What is not limited, was never confirmed, or was over when it came does not count.
    assert_eq!(limits_are_kept(&longer, 0, |_| None), Ok(0));
    longer[3].confirmed = false;
    assert_eq!(check(&longer, 2), Ok(2));
    longer[3].confirmed = true;
    longer[3].until = 0;
    assert_eq!(check(&longer, 2), Ok(2));
}

#[test]
fn the_checker_finds_a_task_that_came_out_of_a_paused_queue() {
    let pauses = [(10, 20), (40, 50)].map(|(from, until)| Pause {
        queue: "q".into(),
        from,
        until,
    });
    let check = |at, queue| {
        let one = HandedOut {
            task: "t".into(),
            at,
        };
        pauses_hold(&pauses, &[one], |_| Some(queue))
    };
    for at in [5, 10, 20, 30, 50, 60] {
        check(at, "q").unwrap();
    }
    for at in [11, 19, 45] {
        breaks(check(at, "q"), "came out of a queue that was paused");
        check(at, "other").unwrap();
    }
}

#[test]
fn the_checker_finds_a_task_that_was_repeated_twice_or_without_need() {
    let repetition = |name: &str| Repetition {
        of: "t".into(),
        name: name.into(),
        uid: format!("uid of {name}"),
    };
    let failed = || changed(|task| task.succeeded = false);
    let (one, two) = (repetition("r1"), repetition("r2"));
    let check = |told: &[&Repetition], standing: &[&Repetition], tasks| {
        let all = |these: &[&Repetition]| these.iter().copied().cloned().collect::<Vec<_>>();
        repetitions_exist_once(&all(told), &all(standing), &tasks)
    };
    check(&[&one, &one], &[&one], failed()).unwrap();
    // Nobody was told of it: the answer was lost.
    check(&[], &[&one], failed()).unwrap();
    breaks(check(&[&one], &[&one, &two], failed()), "repeated twice");
    breaks(check(&[&one, &two], &[&one], failed()), "what stands is");
    breaks(check(&[&one], &[], failed()), "what stands is None");
    let mut new = one.clone();
    new.uid = "another".into();
    breaks(check(&[&one], &[&new], failed()), "what stands is");
    breaks(check(&[], &[&one], tasks(standing())), "did not end badly");
    breaks(check(&[], &[&one], BTreeMap::new()), "did not end badly");
    let open = changed(|task| {
        task.succeeded = false;
        task.terminal = false;
    });
    breaks(check(&[], &[&one], open), "did not end badly");
}
