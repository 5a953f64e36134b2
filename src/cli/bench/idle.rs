//! `duite bench idle`: what a watcher costs the server that has nothing to tell it.
//!
//! Counted is the growth of the server's resident memory from before the first connection until
//! all watchers have their view and some heartbeats have gone by: connections, streams, tasks and
//! watches together. At the end one update per state shows that all of them were still listening.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use tonic::transport::Channel;

use super::{
    Error,
    args::CommonArgs,
    payload::{self, fresh_state_name},
    session::{Session, connect, connect_many},
    wait::{self, Crew},
};
use crate::proto::v1::{
    self, state_service_client::StateServiceClient, value::Kind, watch_state_response::Frame,
};

const CALL: &str = "WatchState";
/// How long all watchers may take to have their first view.
const SYNCED_WITHIN: Duration = Duration::from_secs(120);
/// How long the last update may take to be seen by all.
const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// Memory is settled when it stays within a hundredth for so long, or after the longer time.
const SETTLED_AFTER: Duration = Duration::from_millis(600);
const SETTLED_WITHIN: Duration = Duration::from_secs(6);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// The shortest silence that the server grants.
const HEARTBEAT_S: i64 = 5;
/// Keys of each state: some view to send, and not a large one.
const KEYS: u64 = 4;
/// Calls under way while the states are written.
const CONCURRENT: usize = 64;

#[derive(Args, Debug)]
pub(super) struct IdleArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Watchers, each with a stream of its own
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    watchers: u32,
    /// States that the watchers share
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    states: u32,
    /// Watchers on each connection; the server's `max_streams` is the most it takes
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    streams_per_connection: u32,
}

pub(super) async fn run(args: IdleArgs) -> Result<(), Error> {
    let title = format!(
        "idle: {} watchers of {} states, {} on each connection",
        args.watchers, args.states, args.streams_per_connection
    );
    let mut session = Session::start(&args.common, title).await?;
    session.require_streams().await?;
    measure(&args, &mut session).await?;
    session.finish().await
}

async fn measure(args: &IdleArgs, session: &mut Session) -> Result<(), Error> {
    session.progress.step("writing the states");
    let writer = connect(session.target.address()).await?;
    let states: Vec<_> = (0..args.states).map(|_| fresh_state_name()).collect();
    write_all(&writer, &states, KEYS).await?;
    // What the first watch costs once is not a watcher's share.
    first_view(&writer, &states[0]).await?;
    let before = settled_rss(session).await?;

    session.progress.step("opening the watches");
    let begun = Instant::now();
    let connections = args.watchers.div_ceil(args.streams_per_connection) as usize;
    let channels = connect_many(session.target.address(), connections).await?;
    let tally = Arc::new(Tally::default());
    let mut watchers = Crew::new();
    for index in 0..args.watchers as usize {
        let channel = channels[index / args.streams_per_connection as usize].clone();
        let state = states[index % states.len()].clone();
        watchers.spawn(watch(channel, state, Arc::clone(&tally)));
    }
    let all = u64::from(args.watchers);
    let synced = watchers.during(tally.reaches(|tally| &tally.synced, all));
    wait::at_most(SYNCED_WITHIN, "the first view of all watchers", synced).await?;
    let ready = begun.elapsed();

    session.progress.step("idle");
    let settled = watchers.during(settled_rss(session)).await??;
    let usage = session.target.usage()?;
    let idle = tokio::time::sleep(session.output.duration);
    watchers.during(idle).await?;
    let after = session.target.usage()?;
    let bookmarks = tally.bookmarks.load(Ordering::Relaxed);

    session.progress.step("one update");
    let begun = Instant::now();
    let seen = watchers.during(async {
        write_all(&writer, &states, 1).await?;
        tally.reaches(|tally| &tally.updated, all).await;
        Ok(())
    });
    let seen = async { seen.await? };
    wait::at_most(SEEN_WITHIN, "the update at all watchers", seen).await?;
    let seen = begun.elapsed();
    drop(watchers);

    let report = &mut session.report;
    report.add("watchers", "watchers", all as f64);
    report.add("connections", "connections", connections as f64);
    report.add("ready_s", "until all had their view", ready.as_secs_f64());
    report.add(
        "bookmarks",
        "heartbeats received while idle",
        bookmarks as f64,
    );
    report.add(
        "update_to_all_s",
        "one update of each state to all its watchers",
        seen.as_secs_f64(),
    );
    if let (Some(before), Some(settled), Some(usage), Some(after)) = (before, settled, usage, after)
    {
        // Whichever is more: memory may grow with the heartbeats.
        let most = settled.max(after.resident_bytes);
        let grown = most as f64 - before as f64;
        report.add(
            "bytes_per_watcher",
            "server memory, growth per watcher",
            grown / all as f64,
        );
        report.add(
            "server_rss_before_mb",
            "server memory without watchers",
            before as f64 / 1e6,
        );
        report.add(
            "server_rss_mb",
            "server memory with all of them",
            most as f64 / 1e6,
        );
        let cpu = after.cpu.saturating_sub(usage.cpu).as_secs_f64();
        report.add("server_cpu_s", "server CPU while idle", cpu);
    }
    if bookmarks < all {
        session.report.note(format!(
            "fewer heartbeats than watchers: they come every {HEARTBEAT_S} s, use a longer --duration"
        ));
    }
    Ok(())
}

/// Writes the first `keys` keys of every state.
async fn write_all(channel: &Channel, states: &[String], keys: u64) -> Result<(), Error> {
    let client = StateServiceClient::new(channel.clone());
    stream::iter(states.iter().cloned())
        .map(|name| {
            let mut client = client.clone();
            async move {
                let updates = (0..keys).map(|key| payload::put(key, Kind::Number(0.5)));
                let request = v1::UpdateStateRequest {
                    name,
                    updates: updates.collect(),
                    ..Default::default()
                };
                let answer = client.update_state(request).await;
                answer.map(drop).map_err(Error::call("UpdateState"))
            }
        })
        .buffer_unordered(CONCURRENT)
        .try_collect()
        .await
}

/// Opens one watch, reads its view, and closes it.
async fn first_view(channel: &Channel, state: &str) -> Result<(), Error> {
    let tally = Arc::new(Tally::default());
    let mut one = Crew::new();
    one.spawn(watch(channel.clone(), state.to_owned(), Arc::clone(&tally)));
    let synced = one.during(tally.reaches(|tally| &tally.synced, 1));
    wait::at_most(SYNCED_WITHIN, "the first view", synced).await
}

/// The server's resident memory once it moves no more; `None` where it is not known.
async fn settled_rss(session: &Session) -> Result<Option<u64>, Error> {
    let begun = Instant::now();
    let rss = || Ok::<_, Error>(session.target.usage()?.map(|usage| usage.resident_bytes));
    let Some(mut settled) = rss()? else {
        return Ok(None);
    };
    let mut since = begun;
    while since.elapsed() < SETTLED_AFTER && begun.elapsed() < SETTLED_WITHIN {
        tokio::time::sleep(LOOK).await;
        let now = rss()?.unwrap_or(settled);
        if now.abs_diff(settled) > settled / 100 {
            (settled, since) = (now, Instant::now());
        }
    }
    rss()
}

/// What all watchers have seen together.
#[derive(Debug, Default)]
struct Tally {
    synced: AtomicU64,
    bookmarks: AtomicU64,
    /// Watchers that have seen at least one delta.
    updated: AtomicU64,
}

impl Tally {
    async fn reaches(&self, count: fn(&Self) -> &AtomicU64, all: u64) {
        while count(self).load(Ordering::Relaxed) < all {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Watches `state` until dropped.
async fn watch(channel: Channel, state: String, tally: Arc<Tally>) -> Result<(), Error> {
    let options = v1::WatchOptions {
        heartbeat_interval: Some(prost_types::Duration {
            seconds: HEARTBEAT_S,
            nanos: 0,
        }),
        ..Default::default()
    };
    let request = v1::WatchStateRequest {
        names: vec![state],
        options: Some(options),
        ..Default::default()
    };
    let frames = StateServiceClient::new(channel)
        .watch_state(request)
        .await
        .map_err(Error::call(CALL))?;
    let mut frames = frames.into_inner();
    let mut updated = false;
    while let Some(answer) = frames.message().await.map_err(Error::call(CALL))? {
        match answer.frame {
            Some(Frame::Synced(_)) => _ = tally.synced.fetch_add(1, Ordering::Relaxed),
            Some(Frame::Bookmark(_)) => _ = tally.bookmarks.fetch_add(1, Ordering::Relaxed),
            Some(Frame::Delta(_)) if !updated => {
                updated = true;
                tally.updated.fetch_add(1, Ordering::Relaxed);
            }
            Some(Frame::Opened(_) | Frame::Snapshot(_) | Frame::Delta(_)) | None => {}
            Some(other @ (Frame::Reset(_) | Frame::Closing(_))) => {
                return Err(Error::unexpected(CALL, format!("{other:?}")));
            }
        }
    }
    Err(Error::unexpected(CALL, "the end of the stream"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::fake;

    async fn idled(more: &[&str]) -> Session {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            idle: IdleArgs,
        }
        let address = fake::start().await;
        let fixed = [
            "idle",
            "--no-ceiling",
            "--duration",
            "100ms",
            "--addr",
            &address,
        ];
        let args = <Cli as clap::Parser>::parse_from(fixed.iter().chain(more)).idle;
        let mut session = Session::start(&args.common, "idle".to_owned())
            .await
            .unwrap();
        measure(&args, &mut session).await.unwrap();
        session
    }

    #[tokio::test]
    async fn watchers_are_spread_over_as_many_connections_as_they_need() {
        let more = [
            "--watchers",
            "21",
            "--streams-per-connection",
            "10",
            "--states",
            "4",
        ];
        let report = idled(&more).await.report;
        assert_eq!(report.value("watchers"), Some(21.0));
        assert_eq!(report.value("connections"), Some(3.0));
        assert!(report.value("ready_s").unwrap() > 0.0);
        assert!(report.value("update_to_all_s").unwrap() > 0.0);
        // Somebody else's server: its memory is not known.
        assert_eq!(report.value("bytes_per_watcher"), None);
    }
}
