//! `duite bench watch`: many watchers of one state that changes all the time.
//!
//! Counted are the delta frames that watchers receive; what a slow watcher is spared, because the
//! server folds it, is counted apart. Every value carries the time of its writing.

pub(super) mod updates;
pub(super) mod watcher;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use clap::Args;
use prost::Message;
use tonic::transport::Channel;

use self::{
    updates::{Clock, Plan, Updates},
    watcher::Tally,
};
use super::{
    Error,
    args::CommonArgs,
    ceiling::FanOutShape,
    measure::Meter,
    payload::{self, KEYS_PER_STATE, fresh_state_name},
    session::{Session, Span, connect_many},
    wait::{self, Crew},
};
use crate::proto::v1::{
    self, state_service_client::StateServiceClient, watch_state_response::Frame,
};

/// How long all watchers may take to have their first view.
const SYNCED_WITHIN: Duration = Duration::from_secs(60);
/// How long the last updates may take to be seen.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at a count.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Args, Debug)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Watchers, each with a stream of its own
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    watchers: u32,
    /// Connections that the watchers share; a server allows some 256 streams on each
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// Updates a second, by one writer, one key each
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    updates_per_s: u32,
    /// Keys that the updates cycle over
    #[arg(long, value_name = "N", default_value_t = KEYS_PER_STATE, value_parser = clap::value_parser!(u64).range(1..=KEYS_PER_STATE))]
    keys: u64,
}

impl WatchArgs {
    fn shape(&self) -> FanOutShape {
        FanOutShape {
            watchers: self.watchers as usize,
            connections: usize::from(self.connections).min(self.watchers as usize),
            updates_per_s: self.updates_per_s,
        }
    }

    /// Every latency while there are few, fewer of them when there are many.
    fn sample_every(&self) -> u64 {
        (u64::from(self.watchers) * u64::from(self.updates_per_s) / 50_000).max(1)
    }
}

pub(super) async fn run(args: WatchArgs) -> Result<(), Error> {
    let WatchArgs {
        watchers,
        connections,
        updates_per_s,
        ..
    } = &args;
    let title = format!(
        "watch: {watchers} watchers on {connections} connections, {updates_per_s} updates/s"
    );
    let mut session = Session::start(&args.common, title).await?;
    session.require_streams().await?;
    measure(&args, &mut session).await?;
    session.finish().await
}

async fn measure(args: &WatchArgs, session: &mut Session) -> Result<(), Error> {
    let clock = Clock::start();
    let plan = Plan {
        address: session.target.address().to_owned(),
        state: fresh_state_name(),
        updates_per_s: args.updates_per_s,
        keys: args.keys,
        clock,
    };
    let state = plan.state.clone();
    let updates = Updates::start(plan).await?;
    let shape = args.shape();
    let channels = connect_many(session.target.address(), shape.connections).await?;
    let delta = a_delta(&channels[0], &state, clock).await?;
    session.report.add(
        "delta_bytes",
        "bytes of a delta with one key",
        delta.encoded_len() as f64,
    );

    let before = bare_fan_out(session, &delta, shape).await?;
    let rate = watch(args, session, &channels, &state, updates, clock).await?;
    let after = bare_fan_out(session, &delta, shape).await?;
    if let (Some(before), Some(after)) = (before, after) {
        session
            .report
            .add_ratio(rate, "bare server stream", before, after);
    }
    Ok(())
}

async fn bare_fan_out(
    session: &Session,
    delta: &v1::WatchStateResponse,
    shape: FanOutShape,
) -> Result<Option<f64>, Error> {
    let Some(bare) = &session.bare else {
        return Ok(None);
    };
    session.progress.step("ceiling: bare server stream");
    bare.fan_out(delta, shape, session.output.slice())
        .await
        .map(Some)
}

/// Has the server send one delta of one key, for the ceiling to send the same bytes.
async fn a_delta(
    channel: &Channel,
    state: &str,
    clock: Clock,
) -> Result<v1::WatchStateResponse, Error> {
    let mut client = StateServiceClient::new(channel.clone());
    let request = v1::WatchStateRequest {
        names: vec![state.to_owned()],
        ..Default::default()
    };
    let frames = client
        .watch_state(request)
        .await
        .map_err(Error::call(watcher::CALL))?;
    let mut frames = frames.into_inner();
    let found = async {
        while let Some(answer) = frames.message().await.map_err(Error::call(watcher::CALL))? {
            match &answer.frame {
                Some(Frame::Synced(_)) => {
                    let update = v1::UpdateStateRequest {
                        name: state.to_owned(),
                        updates: vec![payload::put(0, clock.stamp())],
                        ..Default::default()
                    };
                    client
                        .update_state(update)
                        .await
                        .map_err(Error::call("UpdateState"))?;
                }
                Some(Frame::Delta(_)) => return Ok(answer),
                _ => {}
            }
        }
        Err(Error::unexpected(
            watcher::CALL,
            "the end of the stream before a delta",
        ))
    };
    wait::at_most(SYNCED_WITHIN, "the first delta", found).await
}

async fn watch(
    args: &WatchArgs,
    session: &mut Session,
    channels: &[Channel],
    state: &str,
    mut updates: Updates,
    clock: Clock,
) -> Result<f64, Error> {
    session.progress.step("opening the watches");
    let tally = Tally::new(clock, args.sample_every());
    let mut watchers = Crew::new();
    for channel in channels.iter().cycle().take(args.watchers as usize) {
        let request = v1::WatchStateRequest {
            names: vec![state.to_owned()],
            ..Default::default()
        };
        watchers.spawn(watcher::watch(channel.clone(), request, Arc::clone(&tally)));
    }
    let all = u64::from(args.watchers);
    let synced = watchers.during(async {
        while tally.synced.load(Ordering::Relaxed) < all {
            tokio::time::sleep(LOOK).await;
        }
    });
    wait::at_most(SYNCED_WITHIN, "the first view of all watchers", synced).await?;

    session.progress.step("watching");
    let meter = Meter::start(session.output.warm_up(), session.output.duration);
    // Set once: this is the only place that sets it.
    let meter = tally.meter.get_or_init(|| meter);
    let begun = Instant::now();
    updates.go();
    let span = watchers
        .during(Span::over(meter, &session.target))
        .await??;
    let updates_per_s = updates.sent() as f64 / begun.elapsed().as_secs_f64();
    updates.check()?;
    let sent = updates.stop().await?;
    watchers.during(settled(&tally, sent * all)).await?;
    drop(watchers);

    let rate = span.per_second();
    if rate == 0.0 {
        return Err(Error::NothingMeasured("no delta was received"));
    }
    let frames = meter.reading().done;
    let commits = tally.commits.load(Ordering::Relaxed);
    let seen = tally.changes.load(Ordering::Relaxed) as f64 / (sent * all).max(1) as f64;
    let folded = commits.saturating_sub(frames) as f64 / frames.max(1) as f64;
    let report = &mut session.report;
    report.add("deliveries_per_s", "delta frames received", rate);
    report.add(
        "folded_commits_per_s",
        "commits folded into them, beyond one each",
        folded * rate,
    );
    report.add("updates_per_s", "updates written", updates_per_s);
    report.add(
        "updates_seen_ratio",
        "share of the updates that a watcher saw",
        seen,
    );
    report.add_latency("", "written to seen", &meter.latency());
    span.add_server(report, "delivery");
    Ok(rate)
}

/// Waits until all `changes` are seen, or nothing comes any more.
async fn settled(tally: &Tally, changes: u64) {
    let until = Instant::now() + SETTLED_WITHIN;
    let seen = || tally.changes.load(Ordering::Relaxed);
    let mut quiet = 0;
    let mut last = seen();
    while last < changes && quiet < 20 && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        let now = seen();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
}

/// A delta of one key, as large as the server's.
pub(super) fn one_key_delta() -> v1::WatchStateResponse {
    let value = v1::Value {
        kind: Some(v1::value::Kind::Integer(5_000_000_000)),
    };
    let change = v1::KeyChange {
        target: 0,
        key: "solver/0001/value".to_owned(),
        change: Some(v1::key_change::Change::Value(value.encode_to_vec().into())),
        mod_revision: 1_000_001,
        source: String::new(),
    };
    let delta = v1::StateDelta {
        base_revision: 1_000_000,
        position: Some(v1::Position {
            revision: 1_000_001,
            resume_token: vec![7; 32].into(),
        }),
        changes: vec![change],
        more: false,
        folded_commits: 1,
    };
    v1::WatchStateResponse {
        frame: Some(delta.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::fake;

    async fn watched(more: &[&str]) -> Result<Session, Error> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            watch: WatchArgs,
        }
        let address = fake::start().await;
        let fixed = [
            "watch",
            "--no-ceiling",
            "--duration",
            "300ms",
            "--addr",
            &address,
        ];
        let args = <Cli as clap::Parser>::parse_from(fixed.iter().chain(more)).watch;
        let mut session = Session::start(&args.common, "watch".to_owned()).await?;
        measure(&args, &mut session).await?;
        Ok(session)
    }

    #[tokio::test]
    async fn few_watchers_of_a_slow_writer_see_every_update() {
        let report = watched(&["--watchers", "4", "--updates-per-s", "50"])
            .await
            .unwrap()
            .report;
        assert_eq!(report.value("updates_seen_ratio"), Some(1.0));
        assert!(report.value("p50_us").unwrap() > 0.0);
        assert!(report.value("updates_per_s").unwrap() > 10.0);
    }

    #[tokio::test]
    async fn deliveries_are_counted_for_all_watchers_together() {
        let report = watched(&["--watchers", "20", "--connections", "3"])
            .await
            .unwrap()
            .report;
        let updates = report.value("updates_per_s").unwrap();
        let deliveries = report.value("deliveries_per_s").unwrap();
        let folded = report.value("folded_commits_per_s").unwrap();
        // Warm-up and edges blur both rates; one watcher's rate would be a twentieth.
        assert!(
            deliveries + folded > updates * 5.0,
            "{deliveries} + {folded} of {updates}"
        );
    }

    #[test]
    fn a_stamp_is_read_back_and_other_values_are_no_stamp() {
        let clock = Clock::start();
        let encoded = |kind| v1::Value { kind: Some(kind) }.encode_to_vec();
        let before = Instant::now();
        let read = clock.read(&encoded(clock.stamp())).unwrap();
        assert!(before <= read && read <= Instant::now());
        assert_eq!(clock.read(&encoded(v1::value::Kind::Boolean(true))), None);
    }
}
