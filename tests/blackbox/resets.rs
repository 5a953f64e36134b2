//! Connections that are reset in the middle of everything, and a server that is frozen for a while.
//!
//! Real StateQueues write and real watches follow through a proxy that resets every connection
//! (RST, nothing flushed) again and again; between two resets the server is at times stopped with
//! SIGSTOP. Afterwards the history is checked with the functions that also check the simulation.
//! `DUITE_RESET_ROUNDS` sets how many resets, `DUITE_RESET_SEED` repeats their places.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use duite::client::{Client, StateQueue, Update, WatchEvent};
use fastrand::Rng;
use futures_util::StreamExt;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    crash::watchers,
    history::{self, Effect, Stream, View, Writer, complete_at},
    setting,
    support::Server,
    wire::{self, as_integer},
};

const STATE: &str = "shared";
const WRITERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// Batches between two resets, at most.
const MOST_BATCHES: i64 = 60;

/// Forwards connections to the server, and resets them all when asked to.
struct Proxy {
    address: String,
    round: Arc<Mutex<CancellationToken>>,
}

impl Proxy {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let round = Arc::new(Mutex::new(CancellationToken::new()));
        let current = round.clone();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let Ok(mut server) = TcpStream::connect(&server).await else {
                    continue;
                };
                let over = current.lock().clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        () = over.cancelled() => {
                            // Closed so, a socket sends RST and drops what it holds.
                            client.set_zero_linger().unwrap();
                            server.set_zero_linger().unwrap();
                        }
                    }
                });
            }
        });
        Self { address, round }
    }

    fn reset(&self) {
        let over = std::mem::take(&mut *self.round.lock());
        over.cancel();
    }
}

/// Writes until the end; says how many flushes it were.
async fn write(queue: StateQueue, name: String, end: CancellationToken) -> i64 {
    let mut flushes = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    while !end.is_cancelled() {
        flushes += 1;
        queue.push([
            Update::put(format!("last.{name}"), flushes),
            Update::add(format!("sum.{name}"), 1),
            Update::add("total", 1),
        ]);
        queue.flush();
        pace.tick().await;
    }
    let stats = queue
        .exit_within(PATIENCE)
        .await
        .expect("all is acknowledged");
    assert_eq!(stats.writer_restarts, 0, "the server forgot a writer");
    assert!(stats.reconnects > 0, "no stream of {name} was ever reset");
    flushes
}

/// Follows through every reset until it holds the last revision; every frame is kept.
async fn follow(
    address: String,
    mut last: tokio::sync::watch::Receiver<Option<i64>>,
) -> Vec<Stream<i64>> {
    let open = watchers::states(&[STATE]);
    let mut streams = Vec::new();
    let mut held: Option<(i64, Bytes)> = None;
    loop {
        let Ok(channel) = wire::connect(&address).await else {
            continue;
        };
        let token = held.as_ref().map_or_else(Bytes::new, |held| held.1.clone());
        let mut stream = Stream {
            resumed_from: held.as_ref().map(|held| held.0),
            frames: Vec::new(),
        };
        if let Ok(mut frames) = open(channel, token).await {
            loop {
                let until = *last.borrow_and_update();
                if until.is_some() && held.as_ref().map(|held| held.0) >= until {
                    streams.push(stream);
                    return streams;
                }
                let frame = tokio::select! {
                    frame = frames.next() => frame,
                    _ = last.changed() => continue,
                };
                let Some(Ok((frame, token))) = frame else {
                    break;
                };
                if let Some(at) = complete_at(&frame) {
                    held = Some((at, token.expect("a complete view has a token")));
                }
                stream.frames.push(frame);
            }
        }
        streams.push(stream);
    }
}

fn effects(view: &View<i64>) -> (BTreeMap<String, Effect>, i64) {
    let at = |key: &str| view.get(&format!("{STATE}/{key}")).map_or(0, |held| held.0);
    let effects = (0..WRITERS).map(|index| {
        let effect = Effect {
            last: at(&format!("last.w{index}")),
            sum: at(&format!("sum.w{index}")),
        };
        (format!("w{index}"), effect)
    });
    (effects.collect(), at("total"))
}

#[track_caller]
fn kept(checked: history::Checked) {
    if let Err(violation) = checked {
        panic!("a promise is broken: {violation}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_of_every_connection_lose_nothing_and_double_nothing() {
    let seed = setting("DUITE_RESET_SEED", fastrand::u64(..));
    let rounds = setting("DUITE_RESET_ROUNDS", 25);
    eprintln!("DUITE_RESET_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let server = Server::start();
    let proxy = Proxy::start(server.grpc().to_owned()).await;
    let end = CancellationToken::new();
    let client = || Client::connect(proxy.address.as_str()).unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|index| {
            let queue = StateQueue::open(&client(), STATE);
            tokio::spawn(write(queue, format!("w{index}"), end.clone()))
        })
        .collect();
    let last = tokio::sync::watch::Sender::new(None);
    let followers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(follow(proxy.address.clone(), last.subscribe())))
        .collect();

    // The program's own watch goes through the resets too, and tells when the next one is due.
    let mut watch = client().watch_state([STATE]).start();
    let mut due = 1;
    let mut done = 0;
    while done < rounds {
        let event = timeout(PATIENCE, watch.next()).await;
        let event = event
            .expect("the watch goes on")
            .expect("it has no end")
            .unwrap();
        if !matches!(
            event,
            WatchEvent::Changed { .. } | WatchEvent::Synced { .. }
        ) {
            continue;
        }
        let total = watch.view().get(STATE, "total");
        let total = total.map_or(0, |entry| {
            as_integer(&duite::client::encode_value(
                &entry.value().expect("no stub"),
            ))
        });
        if total < due {
            continue;
        }
        done += 1;
        due = total + random.i64(1..=MOST_BATCHES);
        if done % 5 == 0 {
            server.signal(Signal::STOP);
            proxy.reset();
            // Long enough that clients connect and wait; how long exactly does not matter.
            // How often it resets is the load; nothing waits for it to be over.
            tokio::time::sleep(Duration::from_millis(random.u64(50..400))).await;
            server.signal(Signal::CONT);
        } else {
            proxy.reset();
        }
    }
    assert_eq!(
        watch.broken_chains(),
        0,
        "the program's watch lost the thread"
    );
    end.cancel();

    let mut histories = Vec::new();
    for (index, writer) in writers.into_iter().enumerate() {
        let flushes = timeout(PATIENCE, writer).await.expect("it ends").unwrap();
        histories.push(Writer {
            name: format!("w{index}"),
            sent: flushes,
            acknowledged: flushes,
            opened: Vec::new(),
        });
    }
    let direct = wire::connect(&server.addr()).await.unwrap();
    let read = wire::get_state(&direct, STATE).await;
    let state = read.state.expect("an answer has its state");
    let truth: View<i64> = state
        .entries
        .iter()
        .map(|entry| {
            let held = (as_integer(&entry.value), entry.mod_revision);
            (format!("{STATE}/{}", entry.key), held)
        })
        .collect();
    last.send_replace(truth.values().map(|held| held.1).max());
    let mut watched = Vec::new();
    for follower in followers {
        watched.push(timeout(PATIENCE, follower).await.expect("it ends").unwrap());
    }

    let (counted, total) = effects(&truth);
    kept(history::acknowledged_batches_count_once(
        &histories, &counted, total,
    ));
    for streams in &watched {
        assert!(streams.len() > 1, "no stream of a watcher was ever reset");
        kept(history::revisions_never_go_back(streams));
        kept(history::deltas_chain(streams));
        kept(history::changes_lie_between_positions(streams));
        kept(history::tokens_resume(streams));
        kept(history::fresh_tokens_resume(streams, &[]));
        kept(history::growing_values_never_shrink(streams, |_| true));
        kept(history::views_show_whole_batches(streams, effects));
        kept(history::view_ends_as(streams, &truth));
    }
    let watched: Vec<_> = watched.iter().map(Vec::as_slice).collect();
    kept(history::views_agree_where_they_meet(&watched));
}
