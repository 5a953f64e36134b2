//! kill -9 of the server, again and again, in the middle of submits, pushes, work and watches.
//!
//! Clients go on over all lives of the server and record what they saw; `support::history` checks
//! it. The moment of each kill is a number of acknowledgements, drawn from a seed that is printed
//! (`DUITE_CRASH_SEED` repeats it, `DUITE_CRASH_ROUNDS` sets the number of kills). A killed process
//! leaves what it wrote with the system, so this does not show that `fdatasync` is called: the
//! journal's own tests do.

mod clients;
pub(crate) mod watchers;
mod world;

use std::{collections::BTreeMap, time::Instant};

use duite::proto::v1::{self as pb, task::Status as TaskStatus};
use fastrand::Rng;
use tonic::{Code, transport::Channel};

use self::world::{World, ended};
use crate::{
    history::{self, Effect, View, Writer},
    setting,
    support::Server,
    wire::{self, PARENT, States, Tasks, as_integer},
};

/// Written by the pushing writers.
const SHARED: &str = "shared";
/// Written by single calls and by contributions.
const COUNTS: &str = "counts";

const WRITERS: usize = 4;
const SUBMITTERS: usize = 3;
const WORKERS: usize = 2;
/// Most acknowledgements between two kills.
const MOST_ACKNOWLEDGEMENTS: u64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_kills_of_the_server_and_counts_once() {
    let seed = setting("DUITE_CRASH_SEED", fastrand::u64(..));
    let rounds = setting("DUITE_CRASH_ROUNDS", 20);
    eprintln!("DUITE_CRASH_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let mut server = Server::start();
    let world = World::new(&server.addr());
    let started = Instant::now();

    let histories: Vec<_> = (0..WRITERS)
        .map(|index| clients::writer(&format!("w{index}")))
        .collect();
    let writers: Vec<_> = histories
        .iter()
        .map(|history| {
            tokio::spawn(clients::write(
                world.clone(),
                history.clone(),
                random.fork(),
            ))
        })
        .collect();
    let updater = tokio::spawn(clients::update(world.clone(), random.fork()));
    let submitters: Vec<_> = (0..SUBMITTERS)
        .map(|_| tokio::spawn(clients::submit(world.clone(), random.fork())))
        .collect();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| tokio::spawn(clients::work(world.clone(), random.fork())))
        .collect();
    let states = watchers::states(&[SHARED, COUNTS]);
    let until = world.last_change_of_states.subscribe();
    let state_watcher = tokio::spawn(watchers::watch(world.clone(), until, states));
    let until = world.last_change_of_tasks.subscribe();
    let task_watcher = tokio::spawn(watchers::watch(world.clone(), until, watchers::tasks));

    for _ in 0..rounds {
        let acknowledgements = random.u64(0..=MOST_ACKNOWLEDGEMENTS);
        world.wait_for_acknowledgements(acknowledgements).await;
        world.about_to_kill();
        server.kill9();
        server.restart_elsewhere();
        // Nobody else knows the address yet: this is what the crash left.
        let channel = wire::connect(&server.addr()).await.unwrap();
        let (effects, total) = effects_of(&view_of(&channel, SHARED).await);
        let writers: Vec<Writer> = histories.iter().map(|each| each.lock().clone()).collect();
        kept(history::acknowledged_batches_count_once(
            &writers, &effects, total,
        ));
        world.is_back(&server.addr());
    }
    world.wait_for_acknowledgements(MOST_ACKNOWLEDGEMENTS).await;
    world.wind_down.cancel();

    for writer in writers {
        ended(writer).await;
    }
    let updates = ended(updater).await;
    let mut submissions = Vec::new();
    for submitter in submitters {
        submissions.extend(ended(submitter).await);
    }
    let channel = wire::connect(&server.addr()).await.unwrap();
    all_terminal(&channel, submissions.len()).await;
    world.rest.cancel();
    let mut finishes = Vec::new();
    for worker in workers {
        finishes.extend(ended(worker).await);
    }

    let tasks = wire::list_tasks(&channel).await;
    let mut state_truth = view_of(&channel, SHARED).await;
    state_truth.extend(view_of(&channel, COUNTS).await);
    let task_truth: View<TaskStatus> = tasks
        .iter()
        .map(|task| (task.name.clone(), (task.status(), task.revision)))
        .collect();
    // Each watcher hears of what it watches, and so comes to the last change of that.
    world
        .last_change_of_states
        .send_replace(last_change(&state_truth));
    world
        .last_change_of_tasks
        .send_replace(last_change(&task_truth));
    let state_streams = ended(state_watcher).await;
    let task_streams = ended(task_watcher).await;

    let writers: Vec<Writer> = histories.iter().map(|each| each.lock().clone()).collect();
    let (effects, total) = effects_of(&state_truth);
    for writer in &writers {
        assert_eq!(
            writer.sent, writer.acknowledged,
            "{} has ended",
            writer.name
        );
    }
    kept(history::acknowledged_batches_count_once(
        &writers, &effects, total,
    ));
    let listed: Vec<_> = tasks
        .iter()
        .map(|task| (task.name.clone(), task.uid.clone()))
        .collect();
    kept(history::acknowledged_tasks_stand_once(
        &submissions,
        &listed,
    ));
    let ends: BTreeMap<_, _> = tasks
        .iter()
        .map(|task| (task.name.clone(), (task.attempt, task.status())))
        .collect();
    kept(history::acknowledged_outcomes_stand(&finishes, &ends));
    let succeeded = |task: &&pb::Task| task.status() == TaskStatus::Succeeded;
    let succeeded = tasks.iter().filter(succeeded).count() as i64;
    let count = |key: &str| {
        state_truth
            .get(&format!("{COUNTS}/{key}"))
            .map_or(0, |entry| entry.0)
    };
    assert_eq!(count("updates"), updates, "each request counts once");
    assert_eq!(
        count("succeeded"),
        succeeded,
        "each success contributes once"
    );

    kept(history::revisions_never_go_back(&state_streams));
    kept(history::revisions_never_go_back(&task_streams));
    kept(history::deltas_chain(&state_streams));
    kept(history::deltas_chain(&task_streams));
    kept(history::tokens_resume(&state_streams));
    kept(history::tokens_resume(&task_streams));
    kept(history::views_show_whole_batches(
        &state_streams,
        effects_of,
    ));
    kept(history::terminal_statuses_stay(&task_streams, is_terminal));
    kept(history::view_ends_as(&state_streams, &state_truth));
    kept(history::view_ends_as(&task_streams, &task_truth));

    let resumed = resumed(&state_streams) + resumed(&task_streams);
    assert!(resumed > 0 || rounds == 0, "no watch was ever resumed");
    eprintln!(
        "{rounds} kills in {:.1} s: {} acknowledgements, {total} batches, {updates} updates, {} tasks, {} outcomes, {resumed} watches resumed",
        started.elapsed().as_secs_f64(),
        world.acknowledgements(),
        tasks.len(),
        finishes.len(),
    );
}

fn resumed<V>(streams: &[history::Stream<V>]) -> usize {
    let resumed = |stream: &&history::Stream<V>| stream.resumed_from.is_some();
    streams.iter().filter(resumed).count()
}

#[track_caller]
fn kept(checked: history::Checked) {
    if let Err(violation) = checked {
        panic!("a promise is broken: {violation}");
    }
}

fn last_change<V>(truth: &View<V>) -> Option<i64> {
    truth.values().map(|(_, revision)| *revision).max()
}

pub(crate) fn is_terminal(status: TaskStatus) -> bool {
    use TaskStatus::{Cancelled, Failed, Succeeded};
    matches!(status, Succeeded | Failed | Cancelled)
}

/// The entries of a state as `STATE/KEY`; none where it does not stand yet.
async fn view_of(channel: &Channel, state: &str) -> View<i64> {
    let request = pb::GetStateRequest {
        name: wire::state_name(state),
        ..pb::GetStateRequest::default()
    };
    let response = match States::new(channel.clone()).get_state(request).await {
        Err(status) if status.code() == Code::NotFound => return View::new(),
        response => response.expect("the state can be read").into_inner(),
    };
    let entries = response.state.expect("an answer has its state").entries;
    entries
        .into_iter()
        .map(|entry| {
            let value = as_integer(&entry.value);
            (
                format!("{state}/{}", entry.key),
                (value, entry.mod_revision),
            )
        })
        .collect()
}

/// What the writers' batches did, and their total. A large value is in together with the rest of
/// its batch.
fn effects_of(view: &View<i64>) -> (BTreeMap<String, Effect>, i64) {
    let at = |key: &str| {
        view.get(&format!("{SHARED}/{key}"))
            .map_or(0, |entry| entry.0)
    };
    let effects = (0..WRITERS).map(|index| {
        let effect = Effect {
            last: at(&format!("last.w{index}")),
            sum: at(&format!("sum.w{index}")),
        };
        let large = at(&format!("large.w{index}"));
        if large != watchers::REPLACED {
            let due = effect.last - effect.last % clients::LARGE_EVERY;
            assert_eq!(large, due, "w{index} stands at {}", effect.last);
        }
        (format!("w{index}"), effect)
    });
    (effects.collect(), at("total"))
}

/// Waits until so many tasks have ended.
async fn all_terminal(channel: &Channel, count: usize) {
    let request = pb::WatchTasksRequest {
        parent: PARENT.to_owned(),
        until_terminal: true,
        expected_tasks: i32::try_from(count).unwrap(),
        ..pb::WatchTasksRequest::default()
    };
    let watch = Tasks::new(channel.clone()).watch_tasks(request).await;
    let mut frames = watch.unwrap().into_inner();
    let drain = async { while frames.message().await.unwrap().is_some() {} };
    let drained = tokio::time::timeout(std::time::Duration::from_secs(60), drain).await;
    drained.expect("all tasks come to an end");
}
