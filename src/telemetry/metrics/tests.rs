use super::{super::ExportCounted, *};
use crate::domain::{
    Uid,
    task::{
        Attempt, AttemptEnd, Failure, FailureCategory, Phase, Queued, Running, Scheduled, Status,
        Terminal,
    },
};

/// Metrics that push nothing, whatever the environment says.
fn metrics() -> Metrics {
    Metrics::start_with(false)
}

fn lines(metrics: &Metrics) -> Vec<String> {
    let text = String::from_utf8(metrics.scrape().unwrap()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn series(metrics: &Metrics, name: &str) -> Vec<String> {
    let start = format!("{name}{{");
    let mut lines = lines(metrics);
    lines.retain(|line| line.starts_with(&start));
    lines
}

#[track_caller]
fn says(metrics: &Metrics, expected: &[&str]) {
    let lines = lines(metrics);
    for line in expected {
        let found = lines.iter().any(|known| known == line);
        assert!(found, "`{line}` is not in {lines:#?}");
    }
}

fn task(r#type: &str, phase: Phase) -> Task {
    Task {
        r#type: r#type.into(),
        queue: "q".into(),
        uid: Uid(1),
        phase: Some(phase),
        ..Task::default()
    }
}

fn changed(metrics: &Metrics, before: Option<&Task>, after: Option<&Task>) {
    metrics.task_changed(&NamespaceId::trusted("default"), before, after);
}

fn queued(r#type: &str) -> Task {
    task(
        r#type,
        Phase::Queued(Queued {
            since_us: 1_000_000,
        }),
    )
}

fn leased(task: &Task, fence: u64, at_us: i64) -> Task {
    let mut task = task.clone();
    task.fence = fence;
    task.phase = Some(Phase::Running(Running {}));
    task.attempts.push(Attempt {
        fence,
        start_us: at_us,
        ..Attempt::default()
    });
    task
}

fn ended(task: &Task, failure: Option<(FailureCategory, &str)>, phase: Phase) -> Task {
    let mut task = task.clone();
    let attempt = task.attempts.last_mut().unwrap();
    attempt.end_us = attempt.start_us + 2_000_000;
    attempt.end = AttemptEnd::Finished as i32;
    attempt.failure = failure.map(|(category, r#type)| {
        Box::new(Failure {
            category: category as i32,
            r#type: r#type.into(),
            ..Failure::default()
        })
    });
    task.phase = Some(phase);
    task
}

fn terminal(status: Status) -> Phase {
    Phase::Terminal(Terminal {
        status: status as i32,
    })
}

#[test]
fn a_task_is_counted_at_each_step_once() {
    let metrics = metrics();
    let waits = queued("resize");
    changed(&metrics, None, Some(&waits));
    let runs = leased(&waits, 1, 1_500_000);
    changed(&metrics, Some(&waits), Some(&runs));
    let pause = Phase::Scheduled(Scheduled { due_us: 9 });
    let pauses = ended(&runs, Some((FailureCategory::Application, "Oops")), pause);
    changed(&metrics, Some(&runs), Some(&pauses));
    let again = leased(&pauses, 2, 3_000_000);
    changed(&metrics, Some(&pauses), Some(&again));
    let mut suspect = again.clone();
    suspect.suspect_us = 1;
    changed(&metrics, Some(&again), Some(&suspect));
    let failed = terminal(Status::Failed);
    let over = ended(
        &suspect,
        Some((FailureCategory::LeaseLost, "lease_lost")),
        failed,
    );
    changed(&metrics, Some(&suspect), Some(&over));
    // It leaves.
    changed(&metrics, Some(&over), None);
    says(
        &metrics,
        &[
            r#"duite_tasks_created_total{task_type="resize"} 1"#,
            r#"duite_tasks_finished_total{task_status="failed",task_type="resize"} 1"#,
            r#"duite_tasks_finished_total{task_status="succeeded",task_type="resize"} 0"#,
            r#"duite_tasks_failures_total{error_type="Oops",task_type="resize"} 1"#,
            r#"duite_tasks_failures_total{error_type="lease_lost",task_type="resize"} 1"#,
            r#"duite_task_attempt_duration_seconds_sum{outcome="failed",task_type="resize"} 2"#,
            r#"duite_task_attempt_duration_seconds_count{outcome="lease_lost",task_type="resize"} 1"#,
            r#"duite_task_wait_duration_seconds_sum{duite_namespace="default",task_queue="q"} 0.5"#,
            "duite_tasks_retries_total 1",
            "duite_tasks_suspected_total 1",
            "duite_leases_lost_total 1",
        ],
    );
}

#[test]
fn an_attempt_that_was_given_back_is_no_failure() {
    let metrics = metrics();
    let waits = queued("resize");
    let runs = leased(&waits, 1, 1_500_000);
    let mut back = runs.clone();
    back.attempts.clear();
    back.phase = waits.phase.clone();
    changed(&metrics, Some(&runs), Some(&back));
    says(
        &metrics,
        &[
            r#"duite_task_attempt_duration_seconds_count{outcome="released",task_type="resize"} 1"#,
            "duite_tasks_retries_total 0",
            "duite_leases_lost_total 0",
        ],
    );
}

#[test]
fn a_name_that_is_used_again_is_another_task() {
    let metrics = metrics();
    let over = task("resize", terminal(Status::Succeeded));
    let mut another = queued("resize");
    another.uid = Uid(2);
    changed(&metrics, Some(&over), Some(&another));
    says(
        &metrics,
        &[r#"duite_tasks_created_total{task_type="resize"} 1"#],
    );
}

#[test]
fn ten_thousand_task_types_make_a_hundred_and_one_series() {
    let metrics = metrics();
    for number in 0..10_000 {
        let waits = queued(&format!("type {number}"));
        changed(&metrics, None, Some(&waits));
        let runs = leased(&waits, 1, 1_500_000);
        let failure = Some((FailureCategory::Application, "Oops"));
        let over = ended(&runs, failure, terminal(Status::Failed));
        changed(&metrics, Some(&runs), Some(&over));
    }
    let created = series(&metrics, "duite_tasks_created_total");
    assert_eq!(created.len(), 101);
    assert!(created.contains(&r#"duite_tasks_created_total{task_type="_OTHER"} 9900"#.to_owned()));
    assert_eq!(
        series(&metrics, "duite_tasks_finished_total").len(),
        3 * 101
    );
    assert_eq!(series(&metrics, "duite_tasks_failures_total").len(), 201);
    let attempts = series(&metrics, "duite_task_attempt_duration_seconds_count");
    assert_eq!(attempts.len(), 101);
}

#[test]
fn queues_are_bounded_and_one_that_is_gone_goes_to_zero() {
    let metrics = metrics();
    let depth = Arc::new(std::sync::atomic::AtomicU64::new(3));
    let told = depth.clone();
    metrics.read_from(move |reading| {
        let depth = told.load(Relaxed);
        let queue = |number| QueueReading {
            name: format!("queue {number}"),
            depth,
            oldest: Duration::from_secs(depth),
        };
        let queues = if depth > 0 { 0..1_000 } else { 0..0 };
        reading.namespaces.push(NamespaceReading {
            name: "default".into(),
            tasks: vec![("queued", 3_000)],
            queues: queues.map(queue).collect(),
            replay: Duration::from_millis(500),
        });
    });
    let place = r#"{duite_namespace="default",task_queue="queue 7"}"#;
    assert_eq!(series(&metrics, "duite_queue_depth").len(), 101);
    says(
        &metrics,
        &[
            &format!("duite_queue_depth{place} 3"),
            &format!("duite_queue_oldest_wait_seconds{place} 3"),
            r#"duite_queue_depth{duite_namespace="_OTHER",task_queue="_OTHER"} 2700"#,
            r#"duite_queue_oldest_wait_seconds{duite_namespace="_OTHER",task_queue="_OTHER"} 3"#,
            r#"duite_tasks{duite_namespace="default",task_status="queued"} 3000"#,
            r#"duite_journal_replay_duration_seconds{duite_namespace="default"} 0.5"#,
        ],
    );
    depth.store(0, Relaxed);
    says(
        &metrics,
        &[
            &format!("duite_queue_depth{place} 0"),
            &format!("duite_queue_oldest_wait_seconds{place} 0"),
        ],
    );
}

#[test]
fn calls_are_timed_and_streams_are_counted() {
    let metrics = metrics();
    let calls = metrics.calls([
        ("d.S/Get".to_owned(), false),
        ("d.S/Watch".to_owned(), true),
    ]);
    calls.begin("/d.S/Get").end(b"0");
    calls.begin("/d.S/Get").end(b"5");
    calls.begin("/anything").end(b"12");
    drop(calls.begin("/d.S/Get"));
    let open = calls.begin("/d.S/Watch");
    calls.begin("/d.S/Watch").end(b"14");
    let count = |method: &str, code: &str| {
        format!(
            r#"rpc_server_call_duration_seconds_count{{rpc_method="{method}",rpc_response_status_code="{code}",rpc_system_name="grpc"}} 1"#
        )
    };
    says(
        &metrics,
        &[
            &count("d.S/Get", "OK"),
            &count("d.S/Get", "NOT_FOUND"),
            &count("d.S/Get", "CANCELLED"),
            &count("_OTHER", "UNIMPLEMENTED"),
            r#"duite_streams_active{rpc_method="d.S/Watch"} 1"#,
            r#"duite_streams_ended_total{rpc_method="d.S/Watch",rpc_response_status_code="UNAVAILABLE"} 1"#,
        ],
    );
    drop(open);
    says(
        &metrics,
        &[r#"duite_streams_active{rpc_method="d.S/Watch"} 0"#],
    );
}

#[test]
fn exporters_show_what_they_count() {
    let metrics = metrics();
    metrics.register_export_counts("spans", || ExportCounted {
        dropped: 7,
        pending: 2,
        ..ExportCounted::default()
    });
    says(
        &metrics,
        &[
            r#"duite_telemetry_dropped_total{signal="spans"} 7"#,
            r#"duite_telemetry_pending{signal="spans"} 2"#,
        ],
    );
}

#[test]
fn who_counts_nothing_says_nothing() {
    let metrics = Metrics::default();
    changed(&metrics, None, Some(&queued("resize")));
    metrics.calls([]).begin("/d.S/Get").end(b"0");
    drop(metrics.watch_opened(WatchKind::State));
    metrics.stop();
    assert_eq!(metrics.scrape().unwrap(), b"");
}

#[test]
fn what_is_stopped_asks_nobody_any_more() {
    let metrics = metrics();
    let kept = Arc::new(());
    let source = kept.clone();
    metrics.read_from(move |_| drop(source.clone()));
    metrics.stop();
    assert_eq!(Arc::strong_count(&kept), 1);
}

#[test]
fn groups_frames_and_appends_are_added_up() {
    let metrics = metrics();
    for _ in 0..2 {
        metrics.pushed(PushCounts {
            batches: 10,
            operations: 30,
            duplicates: 2,
            rewinds: 1,
        });
        metrics.merged(GroupCounts {
            deltas: 1,
            merges: 3,
            batches: 10,
            operations: 4,
        });
    }
    metrics.refused(5, 1);
    metrics.appended(Duration::from_millis(2), 7, 900);
    metrics.append_failed(AppendFailure::Full);
    says(
        &metrics,
        &[
            "duite_state_batches_received_total 20",
            "duite_state_operations_received_total 60",
            "duite_state_batches_duplicate_total 4",
            "duite_state_rewinds_total 2",
            "duite_state_deltas_total 2",
            "duite_state_merges_total 6",
            "duite_state_batches_merged_total 20",
            "duite_state_operations_merged_total 8",
            "duite_state_keys_rejected_total 5",
            "duite_state_merges_fenced_total 1",
            "duite_journal_append_duration_seconds_sum 0.002",
            "duite_journal_append_entries_sum 7",
            "duite_journal_append_size_bytes_sum 900",
            r#"duite_journal_append_errors_total{error_type="full"} 1"#,
            r#"duite_journal_append_errors_total{error_type="unknown"} 0"#,
        ],
    );
}

#[test]
fn a_watch_is_counted_while_it_is_open_and_one_delta_in_sixteen_is_measured() {
    let metrics = metrics();
    let mut watch = metrics.watch_opened(WatchKind::Tasks);
    for _ in 0..17 {
        watch.frame();
        watch.delta(3);
    }
    watch.reset(WatchReset::Compacted);
    says(
        &metrics,
        &[
            r#"duite_watches_open{kind="tasks"} 1"#,
            "duite_watch_frames_total 17",
            "duite_watch_commits_total 51",
            "duite_watch_lag_count 2",
            r#"duite_watch_resets_total{reason="compacted"} 1"#,
        ],
    );
    drop(watch);
    says(&metrics, &[r#"duite_watches_open{kind="tasks"} 0"#]);
}

#[test]
fn a_server_says_whether_it_is_ready_and_what_its_jobs_did() {
    let metrics = metrics();
    metrics.read_from(|reading| {
        reading.jobs.push(JobReading {
            kind: "monitor",
            running: 1,
            failures: 2,
            restarts: 3,
        });
        reading.disk_free = Some(5);
    });
    metrics.set_ready(true);
    says(
        &metrics,
        &[
            "duite_server_ready 1",
            r#"duite_jobs_running{kind="monitor"} 1"#,
            r#"duite_jobs_failures_total{kind="monitor"} 2"#,
            r#"duite_jobs_restarts_total{kind="monitor"} 3"#,
            "duite_disk_free_bytes 5",
        ],
    );
    let unknown = lines(&metrics);
    assert!(
        !unknown
            .iter()
            .any(|line| line.starts_with("duite_journal_size"))
    );
    metrics.set_ready(false);
    says(&metrics, &["duite_server_ready 0"]);
}
