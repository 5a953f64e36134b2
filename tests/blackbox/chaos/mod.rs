//! Chaos: twenty worker processes and four clients, while the server and the workers are killed
//! with SIGKILL, paused for longer than a lease, shut down and cut off, at random, every few seconds.
//! Of three queues one has limits, and one is paused and resumed all the time.
//!
//! Everybody writes down what they saw: the workers each run of a handler with the time of the
//! machine's monotonic clock, which all processes share; the clients each answer; the watchers each
//! frame. When the faults stop, everything must come to an end within a bound, and
//! `support::history` judges what was written down.
//!
//! `DUITE_CHAOS_SECONDS` sets how long the faults go on, `DUITE_CHAOS_SEED` repeats their choice (not
//! their moment: processes are not deterministic). What was seen is kept where the test fails, and
//! with `DUITE_CHAOS_KEEP=1`.

mod child;
mod clients;
mod clock;
mod crew;
mod faults;
mod follow;
mod proxy;
mod queues;
mod records;
mod retries;
mod verdict;

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use duite::proto::v1::{self as pb, task::Status as TaskStatus};
use fastrand::Rng;
use tokio::{runtime::Runtime, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use self::{
    clients::{Seen, Shared},
    crew::Crew,
    faults::Faults,
    proxy::Proxy,
    records::Folder,
    verdict::Evidence,
};
use crate::{history::Stream, setting, support::Server, wire};

const WORKERS: usize = 20;
const CLIENTS: usize = 4;
const WATCHERS: usize = 2;
/// Short, so that much happens.
const LEASE_MS: u64 = 2_000;
/// The state that all tasks count in, and its key.
const COUNTS: &str = "counts";
const DONE: &str = "done";
/// Where tasks write their progress, each its own key. A state has room for 10,000.
const LIVE_STATES: [&str; 8] = [
    "live0", "live1", "live2", "live3", "live4", "live5", "live6", "live7",
];
/// From the last fault to the end of the last task. Leases, retries and delays take a few seconds;
/// the rest is for a machine that has other things to do.
const CONVERGENCE: Duration = Duration::from_secs(120);
/// A client's last call, and the last frame of a watcher.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn tasks_keep_their_promises_whatever_is_killed_paused_or_cut_off() {
    let seed = setting("DUITE_CHAOS_SEED", fastrand::u64(..));
    let seconds = setting("DUITE_CHAOS_SECONDS", 60);
    eprintln!("DUITE_CHAOS_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let folder = Folder::new(setting("DUITE_CHAOS_KEEP", 0) == 1);
    let server = Server::start_in(folder.inner("server-"), [""; 0]);
    let runtime = runtime();
    let proxy = runtime.block_on(Proxy::start(server.grpc()));
    runtime.block_on(queues::limit(&lazily_in(&runtime, &server.addr())));
    // On this thread: the processes die with it.
    let place = folder.path().to_owned();
    let mut crew = Crew::new(&proxy.address, place, folder.log("crew"), WORKERS);
    crew.look_after();

    let open = Arc::new(AtomicUsize::new(0));
    let last = tokio::sync::watch::Sender::new(None);
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|number| {
            let log = folder.log(&format!("watcher.{number}"));
            let count = (number == 0).then(|| open.clone());
            let (address, last) = (proxy.address.clone(), last.subscribe());
            runtime.spawn(follow::run(address, last, log, count))
        })
        .collect();
    let wind_down = CancellationToken::new();
    let shared = |name: &str| Shared {
        channel: lazily_in(&runtime, &proxy.address),
        log: Arc::new(folder.log(name)),
        open: open.clone(),
        wind_down: wind_down.clone(),
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let shared = shared(&format!("client.{number}"));
            runtime.spawn(clients::run(shared, random.fork()))
        })
        .collect();
    let pausing = queues::pause_now_and_then(shared("pauses"), random.fork());
    let pausing = runtime.spawn(pausing);

    let started = Instant::now();
    let mut faults = Faults::new(server, proxy, folder.log("faults"));
    faults.rage(&mut crew, &mut random, Duration::from_secs(seconds));
    crew.calm();
    faults::quiet(&mut crew, &mut random);
    wind_down.cancel();
    let clients: Vec<Seen> = runtime.block_on(all(clients));
    let pauses = runtime.block_on(all(vec![pausing])).remove(0);
    let channel = lazily_in(&runtime, &faults.server.addr());
    runtime.block_on(queues::open(&channel));
    let calm = Instant::now();
    let tasks = until_all_have_ended(&runtime, &channel, &mut crew);
    let converged = calm.elapsed();
    let (lives, crew_counts) = crew.end();
    // The workers' last batches are in: nothing changes any more.
    last.send_replace(tasks.iter().map(|task| task.revision).max());
    let watched: Vec<Vec<Stream<TaskStatus>>> = runtime.block_on(all(watchers));

    let evidence = Evidence {
        folder: folder.path(),
        lives,
        disturbed: std::mem::take(&mut faults.disturbed),
        clients,
        pauses,
        watched,
        tasks,
        states: runtime.block_on(verdict::read_states(&channel)),
    };
    let summary = verdict::pass(&evidence);
    if seconds >= 30 {
        let (server, workers) = (&faults.counts, &crew_counts);
        let met = [server.killed, server.paused, workers.killed, workers.paused];
        assert!(met.iter().all(|count| *count > 0), "too little went wrong");
    }
    eprintln!(
        "{:.0} s, all ended {converged:.1?} after the last fault; server {:?}, workers {crew_counts:?}; {summary}",
        started.elapsed().as_secs_f64(),
        faults.counts,
    );
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built")
}

/// A connection that is made when it is needed, again and again.
fn lazily(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(address.to_owned()).expect("an address");
    endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(6))
        .connect_lazy()
}

fn lazily_in(runtime: &Runtime, address: &str) -> Channel {
    let _inside = runtime.enter();
    lazily(address)
}

async fn all<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut ends = Vec::new();
    for task in tasks {
        let end = timeout(PATIENCE, task).await;
        let end = end.expect("it ends when it is told to");
        ends.push(end.expect("nobody was treated wrongly"));
    }
    ends
}

/// Waits until every task is terminal, and gives them.
fn until_all_have_ended(runtime: &Runtime, channel: &Channel, crew: &mut Crew) -> Vec<pb::Task> {
    use TaskStatus::{Queued, Running, Scheduled};
    let open = pb::TaskFilter {
        statuses: [Scheduled, Queued, Running].map(i32::from).to_vec(),
        ..pb::TaskFilter::default()
    };
    let until = Instant::now() + CONVERGENCE;
    loop {
        crew.look_after();
        let open = runtime.block_on(wire::list_matching(channel, open.clone()));
        if open.is_empty() {
            return runtime.block_on(wire::list_tasks(channel));
        }
        assert!(
            Instant::now() < until,
            "{} tasks have not ended within {CONVERGENCE:?}: {:#?}",
            open.len(),
            &open[..open.len().min(5)]
        );
        std::thread::sleep(Duration::from_millis(300));
    }
}
