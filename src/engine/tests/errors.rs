//! Error groups: what is counted, exactly once, and who is told.

use std::collections::BTreeMap;

use super::{
    super::{
        errors::ErrorRow,
        watch::{ErrorWatch, Frame, Start, WatchOptions},
    },
    Sandbox, task, token,
};
use crate::{
    domain::{
        Entry, NamespaceId, Reason, Revision, Uid,
        failure::{Kind, OTHER, Report},
        limits::{MAX_ERROR_GROUPS, MAX_REPORTS_PER_CALL},
        task::{Event, Failure, FailureCategory, Outcome, Status},
    },
    journal::{Committed, Fault, Store},
};

fn failure(name: &str) -> Failure {
    Failure {
        category: FailureCategory::Application as i32,
        r#type: name.into(),
        retryable: true,
        ..Failure::default()
    }
}

fn report(id: u128, name: &str) -> Report {
    Report::new(Uid(id), "test", &failure(name)).unwrap()
}

impl Sandbox {
    /// How often each type of failure has occurred.
    fn counted(&self) -> BTreeMap<String, u64> {
        self.namespace.read(|mirror| {
            let groups = mirror.errors.table().iter();
            groups
                .map(|(_, _, group)| (group.failure_type.clone(), group.count))
                .collect()
        })
    }

    async fn fail_once(&self, name: &str) {
        let granted = self.lease(1, 1).await.remove(0);
        let outcome = Outcome::Failed(Box::new(failure(name)));
        let held = token(&granted);
        self.finish(&held, outcome, Vec::new()).await.unwrap();
    }

    /// Records of error groups in the journal.
    fn stored_groups(&self) -> usize {
        let journal = self.store.open(&NamespaceId::trusted("default")).unwrap();
        let mut count = 0;
        let note = &mut |committed: Committed| {
            count += usize::from(matches!(committed.entry, Entry::ErrorGroup(_)));
        };
        journal.replay(note).unwrap();
        count
    }

    /// The group of a type of failure.
    fn group(&self, name: &str) -> ErrorRow {
        let fingerprint = Kind::of("test", &failure(name)).fingerprint();
        self.namespace.get_error_group(fingerprint).unwrap().0
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_without_an_answer_is_sent_again_and_counts_once() {
    for fault in [Fault::UnknownCommitted, Fault::UnknownLost] {
        let sandbox = Sandbox::new().await;
        sandbox.store.faults().next_append(fault);
        let lost = sandbox.namespace.report(vec![report(1, "boom")]).await;
        lost.unwrap_err();
        let sandbox = sandbox.kill_and_restart().await;
        let again = sandbox.namespace.report(vec![report(1, "boom")]).await;
        again.unwrap();
        assert_eq!(sandbox.counted(), counts([("boom", 1)]), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_is_counted_exactly_if_its_record_was_committed() {
    for (fault, expected) in [
        (Fault::UnknownCommitted, counts([("boom", 1)])),
        (Fault::UnknownLost, counts([])),
    ] {
        let sandbox = Sandbox::new().await;
        sandbox.create("t").await;
        let granted = sandbox.lease(1, 1).await.remove(0);
        sandbox.store.faults().next_append(fault);
        let outcome = Outcome::Failed(Box::new(failure("boom")));
        let lost = sandbox.finish(&token(&granted), outcome, Vec::new()).await;
        lost.unwrap_err();
        let sandbox = sandbox.kill_and_restart().await;
        let failed = sandbox.get("t").task.attempts[0].failure.is_some();
        assert_eq!(failed, !expected.is_empty());
        assert_eq!(sandbox.counted(), expected, "{fault:?}");
    }
}

fn counts<const N: usize>(expected: [(&str, u64); N]) -> BTreeMap<String, u64> {
    expected
        .map(|(name, count)| (name.to_owned(), count))
        .into()
}

#[tokio::test(start_paused = true)]
async fn every_failed_attempt_is_counted_and_a_repeated_finish_is_not() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    for _ in 0..2 {
        sandbox.fail_once("boom").await;
    }
    let granted = sandbox.lease(1, 1).await.remove(0);
    for _ in 0..2 {
        // The answer was lost, and the worker says it again.
        let outcome = Outcome::Failed(Box::new(failure("bang")));
        let held = token(&granted);
        sandbox.finish(&held, outcome, Vec::new()).await.unwrap();
    }
    assert_eq!(sandbox.get("t").task.status(), Status::Failed);
    assert_eq!(sandbox.counted(), counts([("boom", 2), ("bang", 1)]));
    let group = sandbox.group("boom").group;
    assert_eq!(
        (group.tasks.as_slice(), group.last_task.as_str()),
        (["t".to_owned()].as_slice(), "t")
    );
    assert!(group.first_us <= group.last_us && group.first_us > 0);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_not_counted() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let granted = sandbox.lease(1, 1).await.remove(0);
    sandbox.cancel("t").await.unwrap();
    let held = token(&granted);
    sandbox
        .finish(&held, Outcome::Cancelled, Vec::new())
        .await
        .unwrap();
    sandbox.create("u").await;
    sandbox.cancel("u").await.unwrap();
    assert_eq!(sandbox.counted(), counts([]));
    let cancelled = Failure {
        category: FailureCategory::Cancelled as i32,
        ..Failure::default()
    };
    assert_eq!(Report::new(Uid(1), "test", &cancelled), None);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_counted_once() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let granted = sandbox.lease(1, 1).await.remove(0);
    let fence = token(&granted).fence;
    for _ in 0..2 {
        let event = Event::LeaseLost { fence };
        sandbox.event("t", event).await.unwrap();
    }
    assert_eq!(sandbox.counted(), counts([("lease_lost", 1)]));
    let sandbox = sandbox.kill_and_restart().await;
    assert_eq!(sandbox.counted(), counts([("lease_lost", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_times_out_without_an_attempt_is_counted() {
    let sandbox = Sandbox::new().await;
    let mut short = task("t");
    short.policy.total_timeout_us = 1_000_000;
    sandbox.create_task(short).await.unwrap();
    sandbox.until(|mirror| mirror.errors.len() == 1).await;
    assert_eq!(sandbox.counted(), counts([("timeout", 1)]));
    assert_eq!(sandbox.get("t").task.status(), Status::Failed);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn counts_are_exact_across_crashes_and_old_records_leave_the_journal() {
    let mut sandbox = Sandbox::new().await;
    for round in 1..=4 {
        sandbox.create(&format!("t{round}")).await;
        for _ in 0..3 {
            sandbox.fail_once("boom").await;
        }
        sandbox = sandbox.kill_and_restart().await;
        assert_eq!(sandbox.counted(), counts([("boom", 3 * round)]));
        assert_eq!(sandbox.stored_groups(), 1);
    }
    assert_eq!(sandbox.group("boom").group.tasks, ["t1", "t2", "t3", "t4"]);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_counts_once_however_often_it_comes() {
    let sandbox = Sandbox::new().await;
    let reports = || vec![report(1, "boom"), report(1, "boom"), report(2, "boom")];
    let first = sandbox.namespace.report(reports()).await.unwrap();
    assert_eq!(sandbox.group("boom").revision, first);
    assert_eq!(sandbox.counted(), counts([("boom", 2)]));
    // At once, so that they meet in one group of drafts, and after a crash.
    let both = tokio::join!(
        sandbox.namespace.report(vec![report(3, "boom")]),
        sandbox.namespace.report(vec![report(3, "boom")]),
    );
    assert!(both.0.is_ok() && both.1.is_ok());
    let sandbox = sandbox.kill_and_restart().await;
    let last = sandbox.group("boom").revision;
    sandbox.namespace.report(reports()).await.unwrap();
    assert_eq!(sandbox.counted(), counts([("boom", 3)]));
    assert_eq!(sandbox.group("boom").revision, last);
    assert_eq!(sandbox.group("boom").group.last_task, "");
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_that_the_journal_refuses_is_not_counted_and_may_be_sent_again() {
    let sandbox = Sandbox::new().await;
    sandbox.store.faults().next_append(Fault::Refuse);
    let refused = sandbox.namespace.report(vec![report(1, "boom")]).await;
    assert_eq!(refused.unwrap_err().reason, Reason::JournalUnavailable);
    assert_eq!(sandbox.counted(), counts([]));
    sandbox
        .namespace
        .report(vec![report(1, "boom")])
        .await
        .unwrap();
    assert_eq!(sandbox.counted(), counts([("boom", 1)]));
}

#[tokio::test(start_paused = true)]
async fn too_many_reports_at_a_time_are_refused() {
    let sandbox = Sandbox::new().await;
    let reports = |count: usize| (0..count).map(|id| report(id as u128, "boom")).collect();
    let namespace = &sandbox.namespace;
    let refused = namespace.report(reports(MAX_REPORTS_PER_CALL + 1)).await;
    assert_eq!(refused.unwrap_err().reason, Reason::FieldInvalid);
    namespace
        .report(reports(MAX_REPORTS_PER_CALL))
        .await
        .unwrap();
    assert_eq!(sandbox.counted(), counts([("boom", 100)]));
}

#[tokio::test(start_paused = true)]
async fn what_would_begin_one_group_too_many_is_counted_in_the_one_for_all_others() {
    let sandbox = Sandbox::new().await;
    let names: Vec<_> = (0..MAX_ERROR_GROUPS - 1)
        .map(|name| name.to_string())
        .collect();
    for (call, names) in names.chunks(MAX_REPORTS_PER_CALL).enumerate() {
        let reports = names.iter().enumerate();
        let reports = reports.map(|(at, name)| report((call * 100 + at) as u128, name));
        sandbox.namespace.report(reports.collect()).await.unwrap();
    }
    assert_eq!(sandbox.counted().len(), MAX_ERROR_GROUPS - 1);
    // One finds room; it and those that stand go on counting.
    let more = |name: &str, id: u128| report(1_000_000 + id, name);
    let reports = vec![more("last", 1), more("x", 2), more("y", 3), more("last", 4)];
    sandbox.namespace.report(reports).await.unwrap();
    let reports = vec![more("z", 5), more("x", 2), more("0", 6)];
    sandbox.namespace.report(reports).await.unwrap();
    let counted = sandbox.counted();
    assert_eq!(counted.len(), MAX_ERROR_GROUPS + 1);
    assert_eq!((counted["last"], counted["0"], counted[OTHER]), (2, 2, 3));
    // A task's failure as well.
    sandbox.create("t").await;
    sandbox.fail_once("new").await;
    assert_eq!(sandbox.counted()[OTHER], 4);
    sandbox.assert_replay_equals_live().await;
}

/// What a client holds of error groups: their counts.
#[derive(Default)]
struct View {
    counts: BTreeMap<String, u64>,
    position: Revision,
    start: Option<Start>,
}

impl View {
    fn take(&mut self, frame: Frame<ErrorRow>) {
        let mut items = Vec::new();
        match frame {
            Frame::Opened { start, .. } => self.start = Some(start),
            Frame::Snapshot(groups) => items = groups,
            Frame::Synced(position) => self.position = position,
            Frame::Delta {
                base,
                position,
                items: groups,
                ..
            } => {
                assert_eq!(base, self.position, "the chain is broken");
                self.position = position.unwrap_or(self.position);
                items = groups;
            }
            Frame::Bookmark { position, .. } => self.position = position,
            other => panic!("{other:?}"),
        }
        for row in items {
            self.counts
                .insert(row.group.failure_type.clone(), row.group.count);
        }
    }

    async fn follow(&mut self, watch: &mut ErrorWatch, until: Revision) {
        while self.position < until {
            self.take(watch.next().await.unwrap().unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_errors_shows_all_then_what_changes_and_resumes_from_its_token() {
    let sandbox = Sandbox::new().await;
    let namespace = &sandbox.namespace;
    let reports = vec![report(1, "a"), report(2, "b")];
    let at = namespace.report(reports).await.unwrap();
    let options = WatchOptions::default();
    let mut watch = namespace.watch_errors(&options).await.unwrap();
    let mut view = View::default();
    view.follow(&mut watch, at).await;
    assert_eq!(view.start, Some(Start::Snapshot));
    assert_eq!(view.counts, counts([("a", 1), ("b", 1)]));
    let at = namespace.report(vec![report(3, "a")]).await.unwrap();
    view.follow(&mut watch, at).await;
    assert_eq!(view.counts, counts([("a", 2), ("b", 1)]));

    let options = WatchOptions {
        resume_token: watch.token(view.position),
        fail_if_compacted: true,
        ..WatchOptions::default()
    };
    drop(watch);
    sandbox.create("t").await;
    sandbox.fail_once("c").await;
    // A token is good however old it is: groups are never removed.
    tokio::time::advance(std::time::Duration::from_secs(3_600)).await;
    let at = namespace.report(vec![report(4, "b")]).await.unwrap();
    let mut watch = namespace.watch_errors(&options).await.unwrap();
    view.follow(&mut watch, at).await;
    assert_eq!(view.start, Some(Start::Resumed));
    assert_eq!(view.counts, sandbox.counted());
    assert_eq!(view.counts, counts([("a", 2), ("b", 2), ("c", 1)]));
}
