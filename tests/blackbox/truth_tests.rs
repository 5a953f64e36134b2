//! The same for the checks against what is known from elsewhere.

use std::collections::BTreeMap;

use crate::history::*;

fn change(key: &str, value: Option<i64>, revision: i64) -> Change<i64> {
    Change {
        key: key.into(),
        value,
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

/// `a` is 1, then 2, then gone; `b` is 1 and comes to 5.
fn truth() -> Versions<i64> {
    let mut truth = Versions::default();
    for (key, revision, value) in [
        ("a", 1, Some(1)),
        ("b", 2, Some(1)),
        ("a", 3, Some(2)),
        ("b", 4, Some(5)),
        ("a", 6, None),
    ] {
        truth.put("e", key, revision, value);
    }
    truth
}

/// A snapshot at 2, a delta to 4, a break, a deletion after resuming.
fn watched() -> Vec<Stream<i64>> {
    vec![
        Stream {
            resumed_from: None,
            frames: vec![
                opened(Start::Snapshot, 2),
                Frame::Snapshot(vec![change("a", Some(1), 1), change("b", Some(1), 2)]),
                Frame::Synced(2),
                delta(2, None, vec![change("a", Some(2), 3)]),
                delta(2, Some(4), vec![change("b", Some(5), 4)]),
            ],
        },
        Stream {
            resumed_from: Some(4),
            frames: vec![
                opened(Start::Resumed, 4),
                delta(4, Some(6), vec![change("a", None, 6)]),
                Frame::Synced(6),
                Frame::Bookmark(9),
            ],
        },
    ]
}

fn whole(_: &str, value: &i64) -> Option<i64> {
    Some(*value)
}

#[track_caller]
fn breaks(checked: Checked, what: &str) {
    let violation = checked.expect_err("a history that was tampered with passed");
    assert!(violation.0.contains(what), "{violation}");
}

#[test]
fn a_true_watch_passes() {
    let streams = watched();
    complete_views_are_the_truth(&streams, &truth(), whole).unwrap();
    partial_views_are_true(&streams, &truth(), whole).unwrap();
    changes_lie_between_positions(&streams).unwrap();
    fresh_tokens_resume(&streams, &[]).unwrap();
    views_agree_where_they_meet(&[&streams, &streams]).unwrap();
    growing_values_never_shrink(&streams, |_| true).unwrap();
    let held = BTreeMap::from([("b".to_owned(), 4)]);
    client_views_follow(&streams, &held).unwrap();
}

#[test]
fn the_checker_finds_a_view_that_never_was() {
    let check = |tamper: fn(&mut Vec<Stream<i64>>)| {
        let mut streams = watched();
        tamper(&mut streams);
        complete_views_are_the_truth(&streams, &truth(), whole)
    };
    // Something missing, something from later, a deletion missed, a bookmark that ran ahead.
    breaks(
        check(|s| drop(s[0].frames.remove(3))),
        "at revision 4 a is 2",
    );
    breaks(
        check(|s| s[0].frames[4] = delta(2, Some(3), vec![change("b", Some(5), 4)])),
        "at revision 3 b is 1",
    );
    breaks(
        check(|s| s[1].frames[1] = delta(4, Some(6), Vec::new())),
        "holds Some(\"a\")",
    );
    breaks(
        check(|s| s[0].frames[3] = Frame::Bookmark(3)),
        "at revision 3 a is 2",
    );
    let only_a = |key: &str, value: &i64| (key == "a").then_some(*value);
    let checked = complete_views_are_the_truth(&watched(), &truth(), only_a);
    breaks(checked, "which is not there");
}

#[test]
fn the_checker_finds_a_part_that_never_was() {
    let mut streams = watched();
    streams[0].frames = vec![
        opened(Start::Live, 2),
        delta(2, Some(4), vec![change("a", Some(2), 3)]),
    ];
    streams[1].frames.truncate(1);
    partial_views_are_true(&streams, &truth(), whole).unwrap();
    streams[0].frames.push(delta(4, Some(6), Vec::new()));
    breaks(
        partial_views_are_true(&streams, &truth(), whole),
        "at revision 6 a is None",
    );
}

#[test]
fn the_checker_finds_two_views_of_one_revision() {
    let one = watched();
    let mut other = watched();
    other[0].frames[4] = delta(2, Some(4), vec![change("b", Some(6), 4)]);
    breaks(
        views_agree_where_they_meet(&[&one, &other]),
        "at revision 4 two watchers",
    );
}

#[test]
fn the_checker_finds_changes_from_outside_their_delta() {
    let mut streams = watched();
    streams[1].frames[1] = delta(4, Some(6), vec![change("a", None, 4)]);
    breaks(changes_lie_between_positions(&streams), "a of revision 4");
    let mut streams = watched();
    streams[0].frames[3] = delta(2, None, vec![change("a", Some(2), 5)]);
    breaks(changes_lie_between_positions(&streams), "from 2 to Some(4)");
}

#[test]
fn the_checker_finds_a_good_token_that_was_not_honoured() {
    let mut streams = watched();
    streams[1].frames.insert(1, Frame::Reset);
    breaks(fresh_tokens_resume(&streams, &[false, false]), "stream 2");
    fresh_tokens_resume(&streams, &[false, true]).unwrap();
    let mut streams = watched();
    streams[1].frames[0] = opened(Start::Resumed, 5);
    breaks(fresh_tokens_resume(&streams, &[]), "began anew");
}

#[test]
fn the_checker_finds_silence() {
    silence_is_broken(&[0, 10, 25, 40], 15).unwrap();
    silence_is_broken(&[], 15).unwrap();
    breaks(silence_is_broken(&[0, 10, 26], 15), "for 16 ms from 10");
}

#[test]
fn the_checker_finds_a_success_before_the_last_progress() {
    let success = |revision, progress| Success {
        epoch: "e".into(),
        revision,
        key: "b".into(),
        progress: vec![progress],
    };
    let check = |success| success_comes_after_the_last_progress(&watched(), &[success]);
    check(success(4, 5)).unwrap();
    check(success(9, 5)).unwrap();
    breaks(check(success(2, 5)), "holds Some(1)");
    breaks(check(success(6, 6)), "b ends with one of [6]");
}

#[test]
fn the_checker_finds_a_count_that_shrinks() {
    let mut streams = watched();
    streams[1].frames[1] = delta(4, Some(6), vec![change("b", Some(4), 6)]);
    breaks(
        growing_values_never_shrink(&streams, |key| key == "b"),
        "b is 4",
    );
    growing_values_never_shrink(&streams, |key| key == "a").unwrap();
}

#[test]
fn the_checker_finds_lost_and_doubled_requests() {
    let check = |counted| acknowledged_requests_count_once("updates", 5, 3, counted);
    for counted in 3..=5 {
        check(counted).unwrap();
    }
    breaks(check(2), "2 count");
    breaks(check(6), "6 count");
}

#[test]
fn the_checker_finds_a_program_that_holds_something_else() {
    let check = |held: &[(&str, i64)]| {
        let held = held.iter().map(|(key, at)| ((*key).to_owned(), *at));
        client_views_follow(&watched(), &held.collect())
    };
    breaks(check(&[]), "the client holds None");
    breaks(check(&[("b", 2)]), "the client holds Some(2)");
    breaks(check(&[("a", 3), ("b", 4)]), "which it was not sent");
}

#[test]
fn a_commit_that_writes_a_key_twice_has_one_version_of_it() {
    let mut truth = truth();
    truth.put("e", "b", 4, Some(6));
    let at_4: Vec<_> = truth.at("e", 4).collect();
    assert_eq!(at_4, [("a", &2, 3), ("b", &6, 4)]);
    assert_eq!(truth.at("other", 4).count(), 0);
    assert_eq!(truth.all().count(), 2);
}
