//! The watch's pure half against frames in order and out of it.

use std::collections::BTreeMap;

use super::*;

#[derive(Debug, Default, Clone, PartialEq)]
struct Numbers(BTreeMap<&'static str, i64>);

impl View for Numbers {
    type Change = (&'static str, Option<i64>);

    fn apply(&mut self, (key, value): Self::Change) {
        match value {
            Some(value) => self.0.insert(key, value),
            None => self.0.remove(key),
        };
    }
}

type Change = (&'static str, Option<i64>);

fn position(revision: i64) -> Position {
    Position {
        revision,
        resume_token: Bytes::from(format!("token {revision}")),
    }
}

fn opened(start: Start, revision: i64) -> Frame<Change> {
    let position = Some(position(revision));
    Frame::Opened(WatchOpened {
        start: start.into(),
        position,
        ..WatchOpened::default()
    })
}

fn delta(base: i64, to: i64, changes: &[Change]) -> Frame<Change> {
    Frame::Delta {
        base,
        position: Some(position(to)),
        changes: changes.to_vec(),
        more: false,
        folded: 1,
    }
}

fn part(base: i64, changes: &[Change]) -> Frame<Change> {
    Frame::Delta {
        base,
        position: None,
        changes: changes.to_vec(),
        more: true,
        folded: 0,
    }
}

fn synced_core() -> WatchCore<Numbers> {
    let mut core = WatchCore::default();
    core.on_frame(opened(Start::Snapshot, 5)).unwrap();
    core.on_frame(Frame::Snapshot(vec![("a", Some(1)), ("b", Some(2))]))
        .unwrap();
    core.on_frame(Frame::Synced(position(5))).unwrap();
    core
}

#[test]
fn a_snapshot_is_seen_whole_or_not_at_all() {
    let mut core = WatchCore::<Numbers>::default();
    core.on_frame(opened(Start::Snapshot, 5)).unwrap();
    core.on_frame(Frame::Snapshot(vec![("a", Some(1))]))
        .unwrap();
    assert!(core.view().0.is_empty());
    // Walked in order of change: what changed meanwhile comes again, deletions too.
    core.on_frame(Frame::Snapshot(vec![("b", Some(2)), ("a", None)]))
        .unwrap();
    let step = core.on_frame(Frame::Synced(position(7))).unwrap();
    assert_eq!(
        step,
        Step::Synced {
            position: position(7)
        }
    );
    assert_eq!(core.view().0, BTreeMap::from([("b", 2)]));
    assert_eq!(core.token(), "token 7");
}

#[test]
fn deltas_chain_through_bookmarks() {
    let mut core = synced_core();
    core.on_frame(delta(5, 6, &[("a", Some(9))])).unwrap();
    core.on_frame(Frame::Bookmark(position(40))).unwrap();
    assert_eq!(core.token(), "token 40");
    let step = core.on_frame(delta(40, 41, &[("b", None)])).unwrap();
    assert!(matches!(step, Step::Changed { ref changes, .. } if changes.len() == 1));
    assert_eq!(core.view().0, BTreeMap::from([("a", 9)]));
}

#[test]
fn a_delta_in_parts_is_applied_with_its_last_part() {
    let mut core = synced_core();
    assert_eq!(core.on_frame(part(5, &[("a", Some(7))])), Ok(Step::Nothing));
    assert_eq!(core.view().0["a"], 1);
    let step = core.on_frame(delta(5, 6, &[("b", Some(8))])).unwrap();
    assert!(matches!(step, Step::Changed { ref changes, .. } if changes.len() == 2));
    assert_eq!(core.view().0, BTreeMap::from([("a", 7), ("b", 8)]));
}

#[test]
fn an_unfinished_delta_is_forgotten_with_its_stream() {
    let mut core = synced_core();
    core.on_frame(part(5, &[("a", Some(7))])).unwrap();
    core.on_disconnect();
    core.on_frame(opened(Start::Resumed, 5)).unwrap();
    core.on_frame(Frame::Synced(position(5))).unwrap();
    assert_eq!(core.view().0["a"], 1);
}

#[test]
fn a_stream_that_closes_between_the_parts_of_a_delta_is_resumed_from_before_it() {
    let mut core = synced_core();
    core.on_frame(part(5, &[("a", Some(7))])).unwrap();
    let step = core.on_frame(Frame::Closing(WatchClosing::default()));
    assert!(matches!(step, Ok(Step::Closing(_))));
    core.on_disconnect();
    assert_eq!((core.token(), core.revision()), ("token 5".into(), Some(5)));
    core.on_frame(opened(Start::Resumed, 5)).unwrap();
    core.on_frame(delta(5, 6, &[("b", Some(8))])).unwrap();
    assert_eq!(core.view().0, BTreeMap::from([("a", 1), ("b", 8)]));
}

#[test]
fn a_reset_between_the_parts_of_a_delta_drops_them() {
    let mut core = synced_core();
    core.on_frame(part(5, &[("a", Some(7))])).unwrap();
    let step = core.on_frame(Frame::Reset(WatchReset::default()));
    assert!(matches!(step, Ok(Step::Reset(_))));
    core.on_frame(Frame::Snapshot(vec![("c", Some(3))]))
        .unwrap();
    core.on_frame(Frame::Synced(position(9))).unwrap();
    core.on_frame(delta(9, 10, &[("d", Some(4))])).unwrap();
    assert_eq!(core.view().0, BTreeMap::from([("c", 3), ("d", 4)]));
}

#[test]
fn half_a_snapshot_is_not_resumed_from() {
    let mut core = synced_core();
    core.on_frame(Frame::Reset(WatchReset::default())).unwrap();
    core.on_frame(opened(Start::Snapshot, 9)).unwrap();
    core.on_frame(Frame::Snapshot(vec![("a", Some(1))]))
        .unwrap();
    core.on_frame(Frame::Bookmark(position(9))).unwrap();
    core.on_disconnect();
    assert!(core.token().is_empty());
    assert!(core.view().0.is_empty());
}

#[test]
fn a_break_in_the_chain_does_not_go_unseen() {
    for frame in [
        delta(6, 7, &[("a", Some(0))]),
        Frame::Synced(position(4)),
        opened(Start::Resumed, 6),
        Frame::Snapshot(vec![("a", Some(0))]),
        Frame::Delta {
            base: 5,
            position: None,
            changes: vec![],
            more: false,
            folded: 1,
        },
    ] {
        let mut core = synced_core();
        assert!(core.on_frame(frame.clone()).is_err(), "{frame:?}");
    }
    let mut core = synced_core();
    core.on_frame(part(5, &[])).unwrap();
    assert!(core.on_frame(Frame::Bookmark(position(6))).is_err());
}

#[test]
fn a_reset_drops_the_view_and_a_snapshot_fills_it_again() {
    let mut core = synced_core();
    assert!(matches!(
        core.on_frame(Frame::Reset(WatchReset::default())),
        Ok(Step::Reset(_))
    ));
    assert!(core.view().0.is_empty());
    core.on_frame(Frame::Snapshot(vec![("c", Some(3))]))
        .unwrap();
    core.on_frame(Frame::Synced(position(2))).unwrap();
    assert_eq!(core.view().0, BTreeMap::from([("c", 3)]));
}

#[test]
fn a_watch_from_the_position_of_a_list_expects_deltas_from_there() {
    let mut core = WatchCore::<Numbers>::from_position(&position(30));
    core.on_frame(opened(Start::Resumed, 30)).unwrap();
    core.on_frame(delta(30, 31, &[("a", Some(1))])).unwrap();
    assert_eq!(core.revision(), Some(31));
}
