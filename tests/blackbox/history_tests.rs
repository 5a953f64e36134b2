//! Each function of the checker passes a good history and fails one that was tampered with.

use std::collections::BTreeMap;

use crate::history::*;

fn submission(request_id: &str, task: &str, uid: &str) -> Submission {
    Submission {
        request_id: request_id.into(),
        acknowledged: vec![(task.into(), uid.into())],
    }
}

fn listed(tasks: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = tasks.iter();
    pairs
        .map(|(name, uid)| ((*name).into(), (*uid).into()))
        .collect()
}

#[track_caller]
fn breaks(checked: Checked, what: &str) {
    let violation = checked.expect_err("a history that was tampered with passed");
    assert!(violation.0.contains(what), "{violation}");
}

#[test]
fn the_checker_finds_lost_doubled_and_invented_tasks() {
    let asked = [submission("r1", "a", "1"), submission("r2", "b", "2")];
    let stand = |tasks: &[_]| acknowledged_tasks_stand_once(&asked, &listed(tasks));
    stand(&[("a", "1"), ("b", "2")]).unwrap();
    breaks(
        stand(&[("a", "1")]),
        "b (uid 2) was acknowledged and is not there",
    );
    breaks(stand(&[("a", "1"), ("b", "9")]), "not there");
    breaks(stand(&[("a", "1"), ("a", "1"), ("b", "2")]), "twice");
    breaks(
        stand(&[("a", "1"), ("b", "2"), ("c", "3")]),
        "3 tasks stand",
    );

    let shared = [submission("r1", "a", "1"), submission("r2", "a", "1")];
    let checked = acknowledged_tasks_stand_once(&shared, &listed(&[("a", "1")]));
    breaks(checked, "two requests");
    let mut changed = submission("r1", "a", "1");
    changed.acknowledged.push(("a2".into(), "2".into()));
    let checked = acknowledged_tasks_stand_once(&[changed], &listed(&[("a", "1")]));
    breaks(checked, "and then with");
}

#[test]
fn the_checker_allows_a_task_whose_acknowledgement_was_lost() {
    let unanswered = Submission {
        request_id: "r".into(),
        acknowledged: Vec::new(),
    };
    let asked = [unanswered];
    acknowledged_tasks_stand_once(&asked, &[]).unwrap();
    acknowledged_tasks_stand_once(&asked, &listed(&[("a", "1")])).unwrap();
}

fn writer(sent: i64, acknowledged: i64) -> Writer {
    Writer {
        name: "w".into(),
        sent,
        acknowledged,
        opened: vec![(0, 0, 0), (5, 3, 4)],
    }
}

fn effects(last: i64, sum: i64) -> BTreeMap<String, Effect> {
    BTreeMap::from([("w".into(), Effect { last, sum })])
}

#[test]
fn the_checker_finds_lost_doubled_and_invented_batches() {
    let check = |last, sum, total| {
        acknowledged_batches_count_once(&[writer(10, 8)], &effects(last, sum), total)
    };
    for stands in 8..=10 {
        check(stands, stands, stands).unwrap();
    }
    breaks(check(7, 7, 7), "stands at 7");
    breaks(check(11, 11, 11), "stands at 11");
    breaks(check(9, 10, 10), "took effect 10 times");
    breaks(check(9, 8, 8), "took effect 8 times");
    breaks(check(9, 9, 10), "share a total of 10");
    let none = BTreeMap::new();
    breaks(
        acknowledged_batches_count_once(&[writer(10, 8)], &none, 0),
        "stands at 0",
    );
}

#[test]
fn the_checker_finds_a_writer_opened_where_it_never_stood() {
    for position in [2, 6] {
        let mut writer = writer(10, 8);
        writer.opened[1].2 = position;
        let checked = acknowledged_batches_count_once(&[writer], &effects(9, 9), 9);
        breaks(checked, "was opened at");
    }
}

fn change(key: &str, value: i64, revision: i64) -> Change<i64> {
    Change {
        key: key.into(),
        value: Some(value),
        revision,
    }
}

fn opened(start: Start, at: i64) -> Frame<i64> {
    Frame::Opened {
        start,
        epoch: "e".into(),
        at,
    }
}

fn delta(base: i64, at: Option<i64>, changes: Vec<Change<i64>>) -> Frame<i64> {
    Frame::Delta { base, at, changes }
}

/// A snapshot, a delta in two parts, a break, and a delta after resuming.
fn watched() -> Vec<Stream<i64>> {
    vec![
        Stream {
            resumed_from: None,
            frames: vec![
                opened(Start::Snapshot, 5),
                Frame::Snapshot(vec![change("a", 1, 3), change("b", 1, 5)]),
                Frame::Synced(5),
                delta(5, None, vec![change("a", 2, 6)]),
                delta(5, Some(7), vec![change("b", 2, 7)]),
            ],
        },
        Stream {
            resumed_from: Some(7),
            frames: vec![
                opened(Start::Resumed, 7),
                delta(7, Some(9), vec![change("a", 3, 9)]),
                Frame::Synced(9),
                Frame::Bookmark(11),
            ],
        },
    ]
}

#[test]
fn a_good_watch_passes() {
    let streams = watched();
    revisions_never_go_back(&streams).unwrap();
    deltas_chain(&streams).unwrap();
    tokens_resume(&streams).unwrap();
    view_ends_as(&streams, &truth()).unwrap();
    terminal_statuses_stay(&streams, |status| status == 3).unwrap();
}

fn truth() -> View<i64> {
    View::from([("a".into(), (3, 9)), ("b".into(), (2, 7))])
}

#[test]
fn the_checker_finds_revisions_that_go_back() {
    let mut streams = watched();
    streams[1].frames[3] = Frame::Bookmark(8);
    breaks(
        revisions_never_go_back(&streams),
        "revision 8 was told after 9",
    );
    let mut streams = watched();
    streams[1].frames[1] = delta(7, Some(9), vec![change("a", 3, 4)]);
    breaks(revisions_never_go_back(&streams), "back to 4");
    let mut streams = watched();
    streams[1].frames.truncate(1);
    streams[1].frames.push(Frame::Synced(6));
    breaks(revisions_never_go_back(&streams), "revision 6");
}

#[test]
fn the_checker_finds_a_delta_that_does_not_chain() {
    for (stream, frame) in [(0, 3), (0, 4), (1, 1)] {
        let mut streams = watched();
        let Frame::Delta { base, .. } = &mut streams[stream].frames[frame] else {
            panic!("a delta stands there");
        };
        *base += 1;
        breaks(deltas_chain(&streams), "came to a view at");
    }
}

#[test]
fn the_checker_finds_a_token_that_does_not_resume() {
    let mut streams = watched();
    streams[1].frames[0] = opened(Start::Snapshot, 7);
    breaks(tokens_resume(&streams), "began anew");
    let mut streams = watched();
    streams[1].frames.insert(1, Frame::Reset);
    breaks(tokens_resume(&streams), "began anew");
    let mut streams = watched();
    streams[1].frames[0] = opened(Start::Resumed, 8);
    breaks(tokens_resume(&streams), "opened at 8");
    let mut streams = watched();
    streams[1].frames[0] = Frame::Opened {
        start: Start::Resumed,
        epoch: "other".into(),
        at: 7,
    };
    breaks(tokens_resume(&streams), "epoch");
}

#[test]
fn the_checker_finds_a_view_that_ends_wrong() {
    let check = |tamper: fn(&mut Vec<Stream<i64>>)| {
        let mut streams = watched();
        tamper(&mut streams);
        view_ends_as(&streams, &truth())
    };
    breaks(check(|s| drop(s[1].frames.remove(1))), "a is (3, 9)");
    breaks(
        check(|s| s[1].frames[1] = delta(7, Some(9), vec![change("a", 4, 9)])),
        "a is (3, 9)",
    );
    breaks(
        check(|s| {
            s[1].frames
                .push(delta(11, Some(12), vec![change("c", 1, 12)]))
        }),
        "holds Some(\"c\")",
    );
    let gone = Change {
        key: "b".into(),
        value: None,
        revision: 12,
    };
    let mut streams = watched();
    streams[1].frames.push(delta(11, Some(12), vec![gone]));
    breaks(view_ends_as(&streams, &truth()), "b is (2, 7)");
}

#[test]
fn the_checker_finds_half_a_batch() {
    let view = |last, sum, total| {
        let changes = vec![
            change("last", last, 2),
            change("sum", sum, 2),
            change("total", total, 2),
        ];
        vec![Stream {
            resumed_from: None,
            frames: vec![
                opened(Start::Snapshot, 2),
                Frame::Snapshot(changes),
                Frame::Synced(2),
            ],
        }]
    };
    let check = |streams: Vec<Stream<i64>>| {
        views_show_whole_batches(&streams, |view| {
            let at = |key: &str| view[key].0;
            (effects(at("last"), at("sum")), at("total"))
        })
    };
    check(view(4, 4, 4)).unwrap();
    breaks(check(view(4, 3, 3)), "half of a batch");
    breaks(check(view(4, 4, 5)), "the total is 5");
}

#[test]
fn the_checker_finds_a_terminal_status_that_changes() {
    let mut streams = watched();
    streams[1]
        .frames
        .push(delta(11, Some(12), vec![change("a", 1, 12)]));
    breaks(
        terminal_statuses_stay(&streams, |status| status == 3),
        "a was 3 and is 1",
    );
}

#[test]
fn the_checker_finds_an_outcome_that_does_not_stand() {
    let finish = |attempt| Finish {
        task: "a".into(),
        attempt,
        status: 4,
    };
    let ended = |attempt, status| BTreeMap::from([("a".into(), (attempt, status))]);
    acknowledged_outcomes_stand(&[finish(1), finish(1)], &ended(1, 4)).unwrap();
    breaks(
        acknowledged_outcomes_stand(&[finish(1)], &ended(1, 5)),
        "stands as",
    );
    breaks(
        acknowledged_outcomes_stand(&[finish(1)], &ended(2, 4)),
        "stands as",
    );
    breaks(
        acknowledged_outcomes_stand(&[finish(1), finish(2)], &ended(1, 4)),
        "were acknowledged",
    );
    breaks(
        acknowledged_outcomes_stand(&[finish(1)], &BTreeMap::new()),
        "stands as None",
    );
}
