//! `duite bench preview`: does a large preview delay a small key?
//!
//! One writer puts an image of 256 KB at 10 Hz, many watchers of that key take it inline. Another
//! writer updates a small key 50 times a second; one watcher of that key alone, on a connection
//! and a thread of its own, measures from written to seen: first without the previews, then with.

mod image;

use std::{sync::Arc, time::Duration};

use clap::Args;

use self::image::{Image, Seen};
use super::{
    Error,
    args::CommonArgs,
    measure::{Latency, Meter},
    payload::{self, fresh_state_name},
    session::{Session, Span, connect, connect_many},
    thread::on_own_thread,
    wait::{self, Crew},
    watch::{
        updates::{Clock, Plan, Updates},
        watcher::{self, Tally},
    },
};
use crate::proto::v1;

/// How long all watchers may take to have their first view.
const SYNCED_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at a count.
const LOOK: Duration = Duration::from_millis(20);
/// The small key, as `payload` numbers keys.
const SMALL: u64 = 0;

#[derive(Args, Debug)]
pub(super) struct PreviewArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Watchers of the preview
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    watchers: u16,
    /// Connections that they share
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Size of the preview, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    size_kib: u16,
    /// Previews a second
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    previews_per_s: u16,
    /// Values larger than this come as stubs, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 1_024, value_parser = clap::value_parser!(u16).range(1..))]
    inline_limit_kib: u16,
    /// Updates a second of the small key
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    updates_per_s: u32,
    /// Put the small key into another state than the preview
    #[arg(long)]
    other_state: bool,
}

pub(super) async fn run(args: PreviewArgs) -> Result<(), Error> {
    let place = if args.other_state {
        "another"
    } else {
        "the same"
    };
    let title = format!(
        "preview: {} KiB at {} Hz to {} watchers, beside a small key of {place} state",
        args.size_kib, args.previews_per_s, args.watchers
    );
    let mut session = Session::start(&args.common, title).await?;
    session.require_streams().await?;
    measure(&args, &mut session).await?;
    session.finish().await
}

async fn measure(args: &PreviewArgs, session: &mut Session) -> Result<(), Error> {
    session.progress.step("opening the watches");
    let address = session.target.address().to_owned();
    let state = fresh_state_name();
    let small_state = match args.other_state {
        true => fresh_state_name(),
        false => state.clone(),
    };
    let mut crew = Crew::new();
    let mut small = Small::start(args, &address, small_state, &mut crew).await?;
    let image = Image::start(
        &address,
        &state,
        args.size_kib,
        args.previews_per_s,
        &mut crew,
    )
    .await?;
    let seen = Arc::new(Seen::default());
    let channels = connect_many(&address, args.connections.min(args.watchers).into()).await?;
    for channel in channels.iter().cycle().take(args.watchers.into()) {
        let limit = i64::from(args.inline_limit_kib) << 10;
        crew.spawn(image::watch(
            channel.clone(),
            state.clone(),
            limit,
            Arc::clone(&seen),
        ));
    }
    let wanted = u64::from(args.watchers);
    let synced = crew.during(async {
        while seen.synced() < wanted || !small.is_synced() {
            tokio::time::sleep(LOOK).await;
        }
    });
    wait::at_most(SYNCED_WITHIN, "the first view of all watchers", synced).await?;

    session.progress.step("without previews");
    small.updates.go();
    // Not so long that the silent writer of the preview would be taken for dead.
    let quiet = (session.output.duration / 2).min(Duration::from_secs(10));
    let without = crew
        .during(small.over(session.output.warm_up(), quiet))
        .await??;
    session.progress.step("with previews");
    image.go();
    let meter = Meter::start(session.output.warm_up(), session.output.duration);
    seen.count_in(meter.clone());
    let measured = async {
        let span = Span::over(&meter, &session.target);
        let small = small.over(session.output.warm_up(), session.output.duration);
        futures_util::future::try_join(span, small).await
    };
    let (span, with) = crew.during(measured).await??;
    let put = image.put();
    drop(crew);
    small.updates.check()?;
    small.updates.stop().await?;

    let report = &mut session.report;
    report.add_latency("", "small key, with previews, written to seen", &with);
    report.add_latency("without_", "small key, without previews", &without);
    report.add(
        "samples",
        "updates of the small key measured with previews",
        with.count() as f64,
    );
    report.add("previews_put", "previews put and acknowledged", put as f64);
    report.add(
        "deliveries_per_s",
        "deltas with a preview received",
        span.per_second(),
    );
    report.add(
        "previews_inline",
        "previews that came inline",
        seen.inline() as f64,
    );
    report.add(
        "previews_stub",
        "previews that came as a stub",
        seen.stubs() as f64,
    );
    span.add_server(report, "delivery");
    if seen.stubs() > 0 {
        report.note(format!(
            "{} of {} previews came as stubs: the server did not grant the inline limit",
            seen.stubs(),
            seen.stubs() + seen.inline()
        ));
    }
    if seen.stubs() + seen.inline() == 0 {
        return Err(Error::NothingMeasured("no preview was received"));
    }
    Ok(())
}

/// The small key's writer and its one watcher.
#[derive(Debug)]
struct Small {
    updates: Updates,
    tally: Arc<Tally>,
    meter: Meter,
}

impl Small {
    async fn start(
        args: &PreviewArgs,
        address: &str,
        state: String,
        crew: &mut Crew<()>,
    ) -> Result<Self, Error> {
        let clock = Clock::start();
        let plan = Plan {
            address: address.to_owned(),
            state: state.clone(),
            updates_per_s: args.updates_per_s,
            keys: SMALL + 1,
            clock,
        };
        let updates = Updates::start(plan).await?;
        let tally = Tally::new(clock, 1);
        let meter = tally.meter.get_or_init(Meter::open_ended).clone();
        let request = v1::WatchStateRequest {
            names: vec![state],
            keys: Some(only(payload::key(SMALL))),
            ..Default::default()
        };
        let (address, its_tally) = (address.to_owned(), Arc::clone(&tally));
        let thread = on_own_thread("bench-small", move || async move {
            watcher::watch(connect(&address).await?, request, its_tally).await
        });
        crew.spawn(thread?.join());
        Ok(Self {
            updates,
            tally,
            meter,
        })
    }

    fn is_synced(&self) -> bool {
        self.tally.synced.load(std::sync::atomic::Ordering::Relaxed) > 0
    }

    /// The latencies of `duration` after `warm_up`.
    async fn over(&self, warm_up: Duration, duration: Duration) -> Result<Latency, Error> {
        tokio::time::sleep(warm_up).await;
        self.meter.take_latency();
        tokio::time::sleep(duration).await;
        let latency = self.meter.take_latency();
        match latency.count() {
            0 => Err(Error::NothingMeasured(
                "no update of the small key was seen",
            )),
            _ => Ok(latency),
        }
    }
}

/// A filter for `key` alone.
fn only(key: String) -> v1::KeyFilter {
    v1::KeyFilter {
        exact: vec![key],
        prefixes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::fake;

    #[tokio::test]
    async fn the_small_key_is_measured_with_and_without_previews() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            preview: PreviewArgs,
        }
        let address = fake::start().await;
        let line = "preview --no-ceiling --duration 400ms --watchers 3 --connections 2 --size-kib 8 --other-state";
        let line = line.split(' ').chain(["--addr", &address]);
        let args = <Cli as clap::Parser>::parse_from(line).preview;
        let mut session = Session::start(&args.common, "preview".to_owned())
            .await
            .unwrap();
        measure(&args, &mut session).await.unwrap();
        let value = |field| session.report.value(field).unwrap();
        assert!(value("p50_us") > 0.0 && value("without_p99_us") > 0.0);
        assert!(value("previews_put") >= 1.0);
        // The fake knows no stubs.
        assert!(value("previews_inline") >= 3.0 && value("previews_stub") == 0.0);
    }
}
