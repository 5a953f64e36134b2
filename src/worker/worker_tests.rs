//! The whole worker against a server whose calls do what the test says, on a thread of its own.

use std::{
    collections::VecDeque,
    net::TcpListener as Bound,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    client::{Client, Update, fake::Fake},
    proto::v1::{
        FinishTasksRequest, FinishTasksResponse, Lease, LeaseStatus, LeaseTasksResponse,
        OutcomeResult, ReleaseLeasesResponse, RenewLeasesRequest, RenewLeasesResponse, Task,
        TaskOutcome, failure::Category, lease_status::Disposition, outcome_result,
        task_outcome::Outcome,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the server was told, and what it answers.
struct Scene {
    client: Client,
    outcomes: mpsc::Receiver<TaskOutcome>,
    renewed: mpsc::Receiver<Vec<u8>>,
    released: mpsc::Receiver<Vec<u8>>,
    calls: Arc<Mutex<Vec<usize>>>,
    disposition: Arc<Mutex<Disposition>>,
    /// So many finishes fail as a whole, and then so many single outcomes.
    failing: Arc<Mutex<(u32, u32)>>,
    /// What is told is refused so often before that.
    refusing: Arc<Mutex<u32>>,
    _guard: tokio_util::sync::DropGuard,
}

fn lease(number: u8) -> Lease {
    let task = Task {
        name: format!("namespaces/default/tasks/t{number}"),
        r#type: "test".to_owned(),
        attempt: 2,
        ..Task::default()
    };
    Lease {
        task: Some(task),
        lease_token: vec![number].into(),
        valid_for: Some(prost_types::Duration {
            seconds: 30,
            nanos: 0,
        }),
        renew_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 20_000_000,
        }),
        trace_context: None,
    }
}

/// A server on a thread of its own, so that a handler that blocks the test's thread shows whether
/// the worker needs it.
fn scene(tasks: u8) -> Scene {
    scene_with(tasks, |fake| fake)
}

/// The same with some calls answered otherwise.
fn scene_with(tasks: u8, change: impl FnOnce(Fake) -> Fake) -> Scene {
    let (outcome_sender, outcomes) = mpsc::channel();
    let (renewed_sender, renewed) = mpsc::channel();
    let (released_sender, released) = mpsc::channel();
    let disposition = Arc::new(Mutex::new(Disposition::Held));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let waiting: Mutex<VecDeque<Lease>> = Mutex::new((1..=tasks).map(lease).collect());
    let (said, counted) = (Arc::clone(&disposition), Arc::clone(&calls));
    let failing = Arc::new(Mutex::new((0, 0)));
    let fails = Arc::clone(&failing);
    let refusing = Arc::new(Mutex::new(0));
    let refuses = Arc::clone(&refusing);
    let fake = Fake {
        lease_tasks: Some(Box::new(move |request| {
            assert_eq!(request.task_types, ["test"]);
            assert!((1..=1000).contains(&request.max_tasks));
            let mut waiting = waiting.lock();
            let given = waiting.len().min(request.max_tasks as usize);
            let leases: Vec<Lease> = waiting.drain(..given).collect();
            Ok((!leases.is_empty()).then_some(LeaseTasksResponse { leases }))
        })),
        renew_leases: Some(Box::new(move |request| {
            let valid_for = Some(prost_types::Duration {
                seconds: 30,
                nanos: 0,
            });
            let status = LeaseStatus {
                disposition: (*said.lock()).into(),
                valid_for,
            };
            let tokens: Vec<u8> = request.lease_tokens.iter().map(|token| token[0]).collect();
            let statuses = vec![status; tokens.len()];
            // A test that looks no more is no error.
            let _ = renewed_sender.send(tokens);
            Ok(RenewLeasesResponse { statuses })
        })),
        push_state: Some(Box::new(|requests| Ok(takes_pushes(requests)))),
        finish_tasks: Some(Box::new(move |request: FinishTasksRequest| {
            counted.lock().push(request.outcomes.len());
            let mut fails = fails.lock();
            if fails.0 > 0 {
                fails.0 -= 1;
                return Err(tonic::Status::unavailable("starting"));
            }
            let mut refuses = refuses.lock();
            let answer = |outcome: TaskOutcome| {
                if *refuses > 0 {
                    *refuses -= 1;
                    let error = tonic_types::pb::Status {
                        code: tonic::Code::InvalidArgument.into(),
                        message: "contributions: 17, 16 are the limit".to_owned(),
                        ..Default::default()
                    };
                    return OutcomeResult {
                        result: Some(outcome_result::Result::Error(error)),
                    };
                }
                if fails.1 > 0 {
                    fails.1 -= 1;
                    let code = tonic::Code::Unavailable.into();
                    let error = tonic_types::pb::Status {
                        code,
                        ..Default::default()
                    };
                    return OutcomeResult {
                        result: Some(outcome_result::Result::Error(error)),
                    };
                }
                let _ = outcome_sender.send(outcome);
                OutcomeResult {
                    result: Some(outcome_result::Result::Task(Task::default())),
                }
            };
            let results = request.outcomes.into_iter().map(answer).collect();
            Ok(FinishTasksResponse {
                results,
                position: None,
            })
        })),
        release_leases: Some(Box::new(move |request| {
            let _ =
                released_sender.send(request.lease_tokens.iter().map(|token| token[0]).collect());
            Ok(ReleaseLeasesResponse {})
        })),
        ..Fake::default()
    };
    let (client, guard) = serve(change(fake));
    Scene {
        client,
        outcomes,
        renewed,
        released,
        calls,
        disposition,
        failing,
        refusing,
        _guard: guard,
    }
}

fn serve(fake: Fake) -> (Client, tokio_util::sync::DropGuard) {
    let listener = Bound::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    std::thread::spawn(move || {
        // Several threads: a call that waits does not hold up the others.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tokio::select! {
                served = fake.into_router().serve_with_incoming(incoming) => served.unwrap(),
                () = stopped.cancelled() => {}
            }
        });
    });
    let client = Client::connect(address.to_string()).unwrap();
    (client, stop.drop_guard())
}

/// The next of what the server was told, without blocking the test's runtime.
async fn told<T: Send + 'static>(receiver: &mpsc::Receiver<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match receiver.try_recv() {
            Ok(told) => return told,
            Err(error) => assert!(Instant::now() < until, "nothing was told: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_output_is_told_with_its_contributions() {
    let scene = scene(1);
    let handler = async |task: TaskContext| {
        assert_eq!(task.attempt(), 2);
        task.contribute("totals", [Update::add("files", 3)]);
        task.contribute("totals", [Update::add("bytes", 9)]);
        Ok::<_, TaskFailure>(serde_json::json!({ "answer": 42 }))
    };
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    let outcome = told(&scene.outcomes).await;
    let Some(Outcome::Output(payload)) = outcome.outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(payload.data, r#"{"answer":42}"#);
    assert_eq!(outcome.contributions.len(), 1);
    assert_eq!(
        outcome.contributions[0].state_name,
        "namespaces/default/states/totals"
    );
    assert_eq!(outcome.contributions[0].updates.len(), 2);
    worker.shutdown(PATIENCE).await;
    assert!(
        scene.released.try_recv().is_err(),
        "nothing was left to release"
    );
}

#[tokio::test]
async fn the_state_that_a_handler_wrote_is_named_in_its_finish() {
    let scene = scene(1);
    let handler = async |task: TaskContext| {
        task.progress(0.5);
        task.progress(1.0);
        Err::<(), _>(TaskFailure::new("mesh.invalid", "no faces").permanent())
    };
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    let outcome = told(&scene.outcomes).await;
    assert_eq!(outcome.flushed.len(), 1);
    assert_eq!(
        outcome.flushed[0].state_name,
        "namespaces/default/states/t1"
    );
    assert!(outcome.flushed[0].sequence > 0);
    let Some(Outcome::Failure(failure)) = outcome.outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (failure.r#type.as_str(), failure.retryable, failure.attempt),
        ("mesh.invalid", false, 2)
    );
    worker.shutdown(PATIENCE).await;
}

/// Acknowledges all that is pushed.
fn takes_pushes(
    requests: tonic::Streaming<crate::proto::v1::PushStateRequest>,
) -> crate::client::fake::Frames<crate::proto::v1::PushStateResponse> {
    use futures_util::StreamExt;

    use crate::proto::v1::{
        PushAck, PushOpened, PushStateResponse, PushWindow, UpdateBatches,
        push_state_request as sent, push_state_response::Frame,
    };
    let answers = requests.map(|request| {
        let frame = match request?.frame {
            Some(sent::Frame::Batches(batches)) => {
                let batches = UpdateBatches::decode(batches).unwrap().batches;
                Frame::Ack(PushAck {
                    acked_sequence: batches.last().map_or(0, |batch| batch.sequence),
                    ..PushAck::default()
                })
            }
            _ => Frame::Opened(PushOpened {
                window: Some(PushWindow {
                    max_unacked_batches: 8,
                    max_unacked_bytes: 1 << 20,
                }),
                ..PushOpened::default()
            }),
        };
        Ok(PushStateResponse { frame: Some(frame) })
    });
    answers.boxed()
}

#[tokio::test]
async fn of_more_writers_than_a_finish_may_name_some_are_settled_before_it() {
    let scene = scene(1);
    let handler = async |task: TaskContext| {
        for index in 0..130 {
            task.state_named(&format!("s{index}")).set("k", index);
        }
        Ok::<_, TaskFailure>(())
    };
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    let outcome = told(&scene.outcomes).await;
    assert!(matches!(outcome.outcome, Some(Outcome::Output(_))));
    assert_eq!(outcome.flushed.len(), 128);
    worker.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn who_writes_after_the_attempt_has_ended_is_refused() {
    let scene = scene(1);
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let handler = move |task: TaskContext| {
        task.progress(1.0);
        *keep.lock() = Some(task);
        async { Ok::<_, TaskFailure>(()) }
    };
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    assert_eq!(told(&scene.outcomes).await.flushed.len(), 1);
    let task: TaskContext = kept.lock().take().unwrap();
    for state in ["t1", "never_used_before"] {
        let queue = task.state_named(state);
        queue.set("late", 1);
        let stats = queue.exit_within(PATIENCE).await.unwrap();
        assert_eq!((stats.refused, stats.batches), (1, 0));
    }
    worker.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_panic_is_a_failure_and_the_worker_goes_on() {
    let scene = scene(2);
    let handler = async |task: TaskContext| {
        assert!(!task.task().name.ends_with("t1"), "t1 is cursed");
        Ok::<_, TaskFailure>(())
    };
    let builder = Worker::builder(scene.client.clone())
        .concurrency(1)
        .handler("test", handler);
    let worker = builder.start().unwrap();
    let Some(Outcome::Failure(failure)) = told(&scene.outcomes).await.outcome else {
        panic!("a panic is a failure");
    };
    assert_eq!(
        (failure.r#type.as_str(), failure.message.as_str()),
        ("panic", "t1 is cursed")
    );
    assert!(
        failure.location.starts_with("worker_tests.rs"),
        "{failure:?}"
    );
    assert!(failure.stack_trace.starts_with("panicked at "));
    assert!(failure.retryable);
    assert!(matches!(
        told(&scene.outcomes).await.outcome,
        Some(Outcome::Output(_))
    ));
    worker.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_handler_that_never_yields_does_not_starve_renewals() {
    let scene = scene(1);
    let renewed = Mutex::new(scene.renewed);
    let handler = move |_: TaskContext| {
        // On the only thread of the test's runtime: everything else of the worker stands still.
        let renewed = renewed.lock();
        for _ in 0..5 {
            assert_eq!(
                renewed.recv_timeout(PATIENCE).expect("a renewal comes"),
                [1]
            );
        }
        std::future::ready(Ok::<_, TaskFailure>(()))
    };
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    assert!(matches!(
        told(&scene.outcomes).await.outcome,
        Some(Outcome::Output(_))
    ));
    worker.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_lost_lease_cancels_the_handler_and_drops_its_result() {
    let scene = scene(1);
    *scene.disposition.lock() = Disposition::Lost;
    let (ended, seen) = mpsc::channel();
    let handler = move |task: TaskContext| {
        let ended = ended.clone();
        async move {
            task.cancelled().cancelled().await;
            ended.send(()).unwrap();
            Ok::<_, TaskFailure>(())
        }
    };
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    told(&seen).await;
    worker.shutdown(PATIENCE).await;
    assert!(
        scene.outcomes.try_recv().is_err(),
        "the result belongs to another attempt"
    );
    assert!(
        scene.released.try_recv().is_err(),
        "the lease is not ours to release"
    );
}

fn cancelled(outcome: TaskOutcome) {
    let Some(Outcome::Failure(failure)) = outcome.outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(failure.category(), Category::Cancelled);
    assert_eq!(
        (failure.r#type.as_str(), failure.message.as_str()),
        ("cancelled", "stopped on request")
    );
}

#[tokio::test]
async fn a_cancel_is_told_as_such_when_the_handler_obeys() {
    let scene = scene(1);
    *scene.disposition.lock() = Disposition::CancelRequested;
    let handler = async |task: TaskContext| {
        task.cancelled().cancelled().await;
        Err::<(), _>(TaskFailure::cancelled())
    };
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    cancelled(told(&scene.outcomes).await);
    worker.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_handler_that_ignores_a_cancel_is_dropped_after_its_grace() {
    let scene = scene(1);
    *scene.disposition.lock() = Disposition::CancelRequested;
    let handler = async |_: TaskContext| std::future::pending::<Result<(), TaskFailure>>().await;
    let builder = Worker::builder(scene.client.clone()).handler("test", handler);
    let worker = builder
        .cancel_grace(Duration::from_millis(10))
        .start()
        .unwrap();
    cancelled(told(&scene.outcomes).await);
    worker.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn results_that_are_ready_together_are_told_in_few_calls() {
    let scene = scene(100);
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let handler = move |_: TaskContext| {
        let gate = gate.clone();
        async move {
            gate.cancelled().await;
            Ok::<_, TaskFailure>(())
        }
    };
    let builder = Worker::builder(scene.client.clone())
        .concurrency(2500)
        .handler("test", handler);
    let worker = builder.start().unwrap();
    let until = Instant::now() + PATIENCE;
    while worker.attempts() < 100 {
        assert!(Instant::now() < until, "{} attempts", worker.attempts());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    opened.cancel();
    for _ in 0..100 {
        told(&scene.outcomes).await;
    }
    let calls = scene.calls.lock().clone();
    assert!(calls.len() <= 10, "{calls:?}");
    worker.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_shutdown_lets_handlers_end_and_releases_those_that_do_not() {
    let scene = scene(2);
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let handler = move |task: TaskContext| {
        let gate = gate.clone();
        async move {
            if task.task().name.ends_with("t1") {
                std::future::pending::<()>().await;
            }
            gate.cancelled().await;
            Ok::<_, TaskFailure>(())
        }
    };
    let builder = Worker::builder(scene.client.clone())
        .concurrency(2)
        .handler("test", handler);
    let worker = builder.start().unwrap();
    let until = Instant::now() + PATIENCE;
    while worker.attempts() < 2 {
        assert!(Instant::now() < until, "{} attempts", worker.attempts());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    worker.initiate_shutdown();
    opened.cancel();
    assert_eq!(told(&scene.outcomes).await.lease_token, vec![2]);
    worker.shutdown(Duration::from_millis(50)).await;
    assert_eq!(told(&scene.released).await, [1]);
}

#[tokio::test]
async fn a_worker_without_handlers_is_refused() {
    let client = Client::connect("http://127.0.0.1:1").unwrap();
    let error = Worker::builder(client).start().unwrap_err();
    assert!(error.message().contains("at least one handler"), "{error}");
}

#[tokio::test]
async fn a_result_is_told_until_it_is_taken() {
    let scene = scene(1);
    // More than the attempts of one call.
    *scene.failing.lock() = (6, 2);
    let handler = async |_: TaskContext| Ok::<_, TaskFailure>(());
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    let outcome = told(&scene.outcomes).await;
    assert_eq!(outcome.lease_token, vec![1]);
    assert_eq!(scene.calls.lock().len(), 9);
    worker.shutdown(PATIENCE).await;
    assert!(
        scene.released.try_recv().is_err(),
        "it was taken, and not released after that"
    );
}

/// A lease of the fake that counts in milliseconds.
fn short_lease(number: u8, valid_for: u64) -> Lease {
    Lease {
        valid_for: Some(crate::client::wire_duration(Duration::from_millis(
            valid_for,
        ))),
        ..lease(number)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_come_after_a_long_poll_during_a_renewal_are_kept() {
    const VALID_FOR: u64 = 100;
    /// More than twice that: what counts from the question, or is swept with the renewal that was
    /// under way, is lost.
    const LONG: Duration = Duration::from_millis(250);
    let (in_flight, renewal_in_flight) = mpsc::channel();
    let (started, eight_started) = mpsc::channel();
    let (outcome, outcomes) = mpsc::channel();
    let asked = Mutex::new(0);
    let renewal_in_flight = Mutex::new(renewal_in_flight);
    let eight_started = Mutex::new(eight_started);
    let held_up = Mutex::new(0);
    let fake = Fake {
        lease_tasks: Some(Box::new(move |_| {
            let mut asked = asked.lock();
            *asked += 1;
            let leases = match *asked {
                1 => vec![lease(1)],
                2 => tokio::task::block_in_place(|| {
                    std::thread::sleep(LONG);
                    renewal_in_flight.lock().recv_timeout(PATIENCE).unwrap();
                    (2..10)
                        .map(|number| short_lease(number, VALID_FOR))
                        .collect()
                }),
                _ => return Ok(None),
            };
            Ok(Some(LeaseTasksResponse { leases }))
        })),
        renew_leases: Some(Box::new(move |request: RenewLeasesRequest| {
            let mut held_up = held_up.lock();
            if *held_up < 1 {
                *held_up += 1;
                // Answered long after the eight have come.
                tokio::task::block_in_place(|| {
                    in_flight.send(()).unwrap();
                    for _ in 0..8 {
                        eight_started.lock().recv_timeout(PATIENCE).unwrap();
                    }
                    std::thread::sleep(LONG);
                });
            }
            let status = LeaseStatus {
                disposition: Disposition::Held.into(),
                valid_for: lease(1).valid_for,
            };
            let statuses = vec![status; request.lease_tokens.len()];
            Ok(RenewLeasesResponse { statuses })
        })),
        finish_tasks: Some(Box::new(move |request: FinishTasksRequest| {
            let results = request.outcomes.into_iter().map(|told| {
                outcome.send(told.lease_token[0]).unwrap();
                OutcomeResult {
                    result: Some(outcome_result::Result::Task(Task::default())),
                }
            });
            Ok(FinishTasksResponse {
                results: results.collect(),
                position: None,
            })
        })),
        ..Fake::default()
    };
    let (client, _guard) = serve(fake);
    let handler = move |task: TaskContext| {
        let started = started.clone();
        async move {
            if !task.task().name.ends_with("t1") {
                started.send(()).unwrap();
            }
            // Beyond the renewal that was under way and the sweep after it.
            let cancelled = task.cancelled();
            tokio::select! {
                () = cancelled.cancelled() => Err(TaskFailure::cancelled()),
                () = tokio::time::sleep(4 * LONG) => Ok(()),
            }
        }
    };
    let worker = Worker::builder(client)
        .concurrency(9)
        .handler("test", handler)
        .start()
        .unwrap();
    let mut ended = Vec::new();
    for _ in 0..9 {
        ended.push(told(&outcomes).await);
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    worker.shutdown(PATIENCE).await;
}

/// Near the time limit of an attempt the server promises less than a renewal interval, in the end
/// nothing.
#[tokio::test]
async fn a_lease_that_is_over_before_the_next_renewal_is_lost_on_time() {
    for promised in [50, 0] {
        let given = Mutex::new(Some(Lease {
            renew_interval: Some(crate::client::wire_duration(10 * PATIENCE)),
            ..short_lease(1, promised)
        }));
        let (told, outcomes) = mpsc::channel();
        let (ended, handler_ended) = tokio::sync::oneshot::channel();
        let ended = Arc::new(Mutex::new(Some(ended)));
        let fake = Fake {
            lease_tasks: Some(Box::new(move |_| {
                let leases: Vec<Lease> = given.lock().take().into_iter().collect();
                Ok((!leases.is_empty()).then_some(LeaseTasksResponse { leases }))
            })),
            renew_leases: Some(Box::new(move |request: RenewLeasesRequest| {
                let status = LeaseStatus {
                    disposition: Disposition::Held.into(),
                    valid_for: short_lease(1, promised).valid_for,
                };
                let statuses = vec![status; request.lease_tokens.len()];
                Ok(RenewLeasesResponse { statuses })
            })),
            finish_tasks: Some(Box::new(move |request: FinishTasksRequest| {
                told.send(request.outcomes.len()).unwrap();
                Ok(FinishTasksResponse::default())
            })),
            ..Fake::default()
        };
        let (client, _guard) = serve(fake);
        let handler = move |task: TaskContext| {
            let ended = Arc::clone(&ended);
            async move {
                task.cancelled().cancelled().await;
                let over = task.lease_until() <= std::time::Instant::now();
                ended.lock().take().unwrap().send(over).unwrap();
                Ok::<_, TaskFailure>(())
            }
        };
        let worker = Worker::builder(client)
            .handler("test", handler)
            .start()
            .unwrap();
        let over = tokio::time::timeout(PATIENCE, handler_ended).await;
        assert!(over.unwrap().unwrap(), "the handler was stopped before");
        worker.shutdown(PATIENCE).await;
        assert!(outcomes.try_recv().is_err(), "the result is dropped");
    }
}

#[tokio::test]
async fn a_server_that_does_not_wait_is_not_asked_without_pause() {
    let asked = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&asked);
    let fake = Fake {
        lease_tasks: Some(Box::new(move |_| {
            *counted.lock() += 1;
            Ok(Some(LeaseTasksResponse::default()))
        })),
        ..Fake::default()
    };
    let (client, _guard) = serve(fake);
    let worker = Worker::builder(client)
        .handler("test", async |_: TaskContext| Ok::<_, TaskFailure>(()))
        .start()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = *asked.lock();
    assert!((1..50).contains(&asked), "asked {asked} times");
    worker.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_result_that_is_refused_is_told_as_a_failure_that_says_why() {
    let scene = scene(1);
    *scene.refusing.lock() = 1;
    let handler = async |task: TaskContext| {
        for number in 0..70 {
            task.state_named(&format!("s{number}")).set("a", 1);
        }
        task.contribute("totals", [Update::add("files", 3)]);
        Ok::<_, TaskFailure>(serde_json::json!("well"))
    };
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    let outcome = told(&scene.outcomes).await;
    assert!(outcome.contributions.is_empty());
    assert_eq!(outcome.flushed.len(), 70);
    let Some(Outcome::Failure(failure)) = outcome.outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (failure.r#type.as_str(), failure.retryable, failure.attempt),
        ("result.refused", false, 2)
    );
    assert!(failure.message.contains("16 are the limit"), "{failure:?}");
    drop(worker);
}

#[tokio::test]
async fn a_result_that_is_refused_twice_is_dropped() {
    let scene = scene(2);
    *scene.refusing.lock() = 2;
    let handler = async |_: TaskContext| Ok::<_, TaskFailure>(());
    let worker = Worker::builder(scene.client.clone())
        .concurrency(1)
        .handler("test", handler)
        .start()
        .unwrap();
    assert_eq!(told(&scene.outcomes).await.lease_token, vec![2]);
    worker.shutdown(PATIENCE).await;
    assert!(scene.outcomes.try_recv().is_err());
    assert!(scene.released.try_recv().is_err());
}

#[tokio::test]
async fn an_output_over_the_limit_fails_before_it_is_sent() {
    let scene = scene(1);
    let handler =
        async |_: TaskContext| Ok::<_, TaskFailure>(Output::bytes("", vec![0; (1 << 20) + 1]));
    let worker = Worker::builder(scene.client.clone())
        .handler("test", handler)
        .start()
        .unwrap();
    let Some(Outcome::Failure(failure)) = told(&scene.outcomes).await.outcome else {
        panic!("it is too large");
    };
    assert_eq!(failure.r#type, "output.too_large");
    assert!(failure.message.contains("1048577"), "{}", failure.message);
    worker.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_shutdown_waits_until_the_last_state_is_taken() {
    use futures_util::StreamExt;

    use crate::proto::v1::{
        PushAck, PushOpened, PushStateResponse, PushWindow, UpdateBatches,
        push_state_request as sent, push_state_response::Frame,
    };
    let finished = CancellationToken::new();
    let taken = CancellationToken::new();
    let (heard, took) = (finished.clone(), taken.clone());
    let waiting = Mutex::new(Some(lease(1)));
    let fake = Fake {
        lease_tasks: Some(Box::new(move |_| {
            let lease = waiting.lock().take();
            Ok(lease.map(|lease| LeaseTasksResponse {
                leases: vec![lease],
            }))
        })),
        renew_leases: Some(Box::new(|request: RenewLeasesRequest| {
            let status = LeaseStatus {
                disposition: Disposition::Held.into(),
                valid_for: lease(1).valid_for,
            };
            let statuses = vec![status; request.lease_tokens.len()];
            Ok(RenewLeasesResponse { statuses })
        })),
        push_state: Some(Box::new(move |requests| {
            let (heard, took) = (heard.clone(), took.clone());
            let answers = requests.then(move |request| {
                let (heard, took) = (heard.clone(), took.clone());
                async move {
                    let frame = match request?.frame {
                        Some(sent::Frame::Batches(batches)) => {
                            // Taken only a while after the finish is answered.
                            heard.cancelled().await;
                            tokio::time::sleep(Duration::from_millis(200)).await;
                            took.cancel();
                            let batches = UpdateBatches::decode(batches).unwrap();
                            let last = batches.batches.last().map(|batch| batch.sequence);
                            Frame::Ack(PushAck {
                                acked_sequence: last.unwrap_or_default(),
                                ..PushAck::default()
                            })
                        }
                        _ => Frame::Opened(PushOpened {
                            window: Some(PushWindow {
                                max_unacked_batches: 8,
                                max_unacked_bytes: 1 << 20,
                            }),
                            ..PushOpened::default()
                        }),
                    };
                    Ok(PushStateResponse { frame: Some(frame) })
                }
            });
            Ok(answers.boxed())
        })),
        finish_tasks: Some(Box::new(move |_| {
            finished.cancel();
            let task = outcome_result::Result::Task(Task::default());
            Ok(FinishTasksResponse {
                results: vec![OutcomeResult { result: Some(task) }],
                position: None,
            })
        })),
        ..Fake::default()
    };
    let (client, _guard) = serve(fake);
    let (started, begun) = mpsc::channel();
    let handler = move |task: TaskContext| {
        started.send(()).unwrap();
        async move {
            task.progress(1.0);
            Ok::<_, TaskFailure>(())
        }
    };
    let worker = Worker::builder(client)
        .handler("test", handler)
        .start()
        .unwrap();
    told(&begun).await;
    worker.shutdown(PATIENCE).await;
    assert!(taken.is_cancelled(), "the last state was left behind");
}

/// The attempt's span, as the server names it in the lease.
const ATTEMPT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A server with one task, whose attempt has a span, and what it hears of traces.
fn traced() -> (Scene, Arc<Mutex<Vec<String>>>) {
    let mut waiting = Some(lease(1));
    if let Some(lease) = &mut waiting {
        lease.trace_context = Some(crate::proto::v1::TraceContext {
            traceparent: ATTEMPT.to_owned(),
            tracestate: String::new(),
        });
    }
    let waiting = Mutex::new(waiting);
    let submitted = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&submitted);
    let scene = scene_with(0, |fake| Fake {
        lease_tasks: Some(Box::new(move |_| {
            let leases: Vec<Lease> = waiting.lock().take().into_iter().collect();
            Ok((!leases.is_empty()).then_some(LeaseTasksResponse { leases }))
        })),
        create_task: Some(Box::new(|_| {
            Ok(crate::proto::v1::CreateTaskResponse {
                task: Some(Task::default()),
                ..Default::default()
            })
        })),
        headers: Some(Box::new(move |call, metadata| {
            if call == "CreateTask" {
                let parent = metadata.get("traceparent");
                let parent = parent.and_then(|parent| parent.to_str().ok());
                seen.lock().push(parent.unwrap_or_default().to_owned());
            }
        })),
        ..fake
    });
    (scene, submitted)
}

/// Submits from the handler, and from a task that it creates, and fails.
async fn submits(task: TaskContext) -> Result<(), TaskFailure> {
    let client = task.client().clone();
    client.submit(crate::client::NewTask::new("child")).await?;
    let client = task.client().clone();
    let child = crate::runtime::create_task("child", async move {
        let child = crate::client::NewTask::new("child");
        client.submit(child).await.map(drop)
    });
    child.await?;
    Err(TaskFailure::new("test.done", "all submitted"))
}

#[tokio::test]
async fn what_a_handler_submits_is_in_the_trace_of_its_task() {
    let (scene, submitted) = traced();
    let builder = Worker::builder(scene.client.clone()).handler("test", submits);
    let worker = builder.start().unwrap();
    let Some(Outcome::Failure(failure)) = told(&scene.outcomes).await.outcome else {
        panic!("it fails in the end");
    };
    assert_eq!(failure.message, "all submitted");
    assert_eq!(*submitted.lock(), [ATTEMPT, ATTEMPT]);
    assert_eq!(failure.trace_context.unwrap().traceparent, ATTEMPT);
    worker.shutdown(PATIENCE).await;
}

/// Keeps what is exported.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<opentelemetry_sdk::trace::SpanData>>>);

impl opentelemetry_sdk::trace::SpanExporter for Spans {
    async fn export(
        &self,
        batch: Vec<opentelemetry_sdk::trace::SpanData>,
    ) -> opentelemetry_sdk::error::OTelSdkResult {
        self.0.lock().extend(batch);
        Ok(())
    }
}

#[tokio::test]
async fn with_a_layer_the_handlers_own_span_is_between_them() {
    use opentelemetry::trace::TracerProvider;
    use tracing_subscriber::layer::SubscriberExt;
    let exporter = Spans::default();
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer);
    let _another = crate::telemetry::beside_another();
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let (scene, submitted) = traced();
    let builder = Worker::builder(scene.client.clone()).handler("test", submits);
    let worker = builder.start().unwrap();
    let Some(Outcome::Failure(failure)) = told(&scene.outcomes).await.outcome else {
        panic!("it fails in the end");
    };
    worker.shutdown(PATIENCE).await;
    let spans = exporter.0.lock().clone();
    let span = |name: &str| {
        let span = spans.iter().find(|span| span.name == name);
        span.unwrap_or_else(|| panic!("{name} in {spans:?}"))
    };
    let (handler, child) = (span("handle test"), span("child"));
    assert_eq!(handler.parent_span_id.to_string(), "b7ad6b7169203331");
    assert_eq!(child.parent_span_id, handler.span_context.span_id());
    let parent = |span: &opentelemetry_sdk::trace::SpanData| {
        let context = &span.span_context;
        format!("00-{}-{}-01", context.trace_id(), context.span_id())
    };
    assert!(parent(handler).starts_with(&ATTEMPT[..36]), "one trace");
    assert_eq!(*submitted.lock(), [parent(handler), parent(child)]);
    assert_eq!(failure.trace_context.unwrap().traceparent, parent(handler));
}
