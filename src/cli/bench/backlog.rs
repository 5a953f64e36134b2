//! `duite bench backlog`: what a task costs the server while a million others wait, and what these
//! take in its memory.
//!
//! A backlog cannot be taken away again soon, so there are two servers of this build: many tasks wait
//! at one, few at the other. The same load runs on the one and on the other in turn, slice by slice:
//! whole lives of tasks, in a queue of their own or in that of the waiting ones. What is compared is
//! the server's processor time for each.

use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use super::{
    Error,
    args::{CommonArgs, OutputArgs},
    fill,
    lives::{Clients, LivesArgs, SHORTEST_SLICE, Sides, Slice},
    pairs::{PairArgs, Quartiles, Side, alternate},
    process::Usage,
    report::{Progress, Report},
    server::ServerProcess,
    session::Session,
};

/// How long a server may go on tidying up after it was filled.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// A server that uses no more than this between two looks has settled.
const SETTLED: Duration = Duration::from_millis(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
const NO_USAGE: &str =
    "a server's processor time is told by /proc, which this system has not; nothing was compared";

#[derive(Args, Debug)]
pub(super) struct BacklogArgs {
    /// Leave out the bare calls that tell whether the run is void
    #[arg(long)]
    no_ceiling: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Tasks that wait at the one server
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    waiting: u32,
    /// Tasks that wait at the other
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=5_000_000))]
    beside: u32,
    /// Let them wait in the queue that is worked on
    ///
    /// Without it they wait in ten other queues, and the run shows what it costs that they are
    /// there. With it each lease takes the oldest of them, whose inputs are read back from the
    /// journal, and as many new ones join at the end: the run shows what it costs to work a long
    /// queue off.
    #[arg(long)]
    same_queue: bool,
    #[command(flatten)]
    lives: LivesArgs,
}

pub(super) async fn run(args: BacklogArgs) -> Result<(), Error> {
    let place = if args.same_queue {
        "in the queue that is worked on"
    } else {
        "in other queues"
    };
    let title = format!(
        "backlog: {} tasks waiting {place}, compared with {}",
        args.waiting, args.beside
    );
    let common = CommonArgs {
        addr: None,
        no_ceiling: args.no_ceiling,
        output: args.output.clone(),
    };
    let mut session = Session::start(&common, title).await?;
    session.require_calls().await?;
    session.bare = None;
    let beside = ServerProcess::start(&args.output.data).await?;
    let addresses = Sides {
        few: beside.address().to_owned(),
        many: session.target.address().to_owned(),
    };
    let (target, report) = (&session.target, &mut session.report);
    let usage = |side| match side {
        Side::Without => beside.usage(),
        Side::With => target.usage(),
    };
    measure(&args, &addresses, usage, report, &session.progress).await?;
    beside.stop().await?;
    session.finish().await
}

async fn measure(
    args: &BacklogArgs,
    addresses: &Sides<String>,
    usage: impl Fn(Side) -> Result<Option<Usage>, Error>,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), Error> {
    let queue = format!("bench-{}", Uuid::new_v4().simple());
    progress.step("filling");
    let fillings = [
        (Side::Without, &addresses.few, args.beside),
        (Side::With, &addresses.many, args.waiting),
    ];
    for (side, address, count) in fillings {
        let queues = match args.same_queue {
            true => vec![queue.clone()],
            false => fill::waiting_queues(),
        };
        let empty = usage(side)?;
        let begun = std::time::Instant::now();
        fill::fill(address, &queues, count, args.lives.input_bytes as usize).await?;
        let per_s = f64::from(count) / begun.elapsed().as_secs_f64();
        if side == Side::With {
            report.add("filled_per_s", "tasks submitted while filling", per_s);
            let filled = usage(side)?;
            progress.step("waiting for the servers to settle");
            settle(&usage, SETTLE_WITHIN.min(args.output.duration), report).await?;
            add_memory(report, count, [empty, filled, usage(side)?]);
        }
    }

    let mut crews = Sides {
        few: Clients::connect(&args.lives, &addresses.few, &queue).await?,
        many: Clients::connect(&args.lives, &addresses.many, &queue).await?,
    };
    let slice = args.pairs.slice(&args.output);
    if slice < SHORTEST_SLICE {
        report.note(format!(
            "processor time is told to 10 ms and a slice takes {slice:?}; use a longer --duration"
        ));
    }
    progress.step("slices with few and with many waiting");
    // Not counted: connections, threads and buffers.
    for side in [Side::Without, Side::With] {
        crews.of(side).slice(slice, || usage(side)).await?;
    }
    let before = [usage(Side::Without)?, usage(Side::With)?];
    crews.few.lives = 0;
    crews.many.lives = 0;
    let pairs = alternate(args.pairs.pairs, async |side| {
        crews.of(side).slice(slice, || usage(side)).await
    });
    let pairs = pairs.await?;
    let after = [usage(Side::Without)?, usage(Side::With)?];
    add_pairs(report, &pairs);
    let lives = [crews.few.lives, crews.many.lives];
    add_whole(report, before, after, lives);
    if let Some(usage) = after[1] {
        let megabytes = usage.resident_bytes as f64 / 1e6;
        report.add("end_rss_mb", "server memory at the end", megabytes);
    }
    Ok(())
}

/// Waits until neither server does anything any more, or goes on with a note.
async fn settle(
    usage: impl Fn(Side) -> Result<Option<Usage>, Error>,
    within: Duration,
    report: &mut Report,
) -> Result<(), Error> {
    let used = || -> Result<Option<Duration>, Error> {
        let (few, many) = (usage(Side::Without)?, usage(Side::With)?);
        Ok(few.zip(many).map(|(few, many)| few.cpu + many.cpu))
    };
    let mut looks = within.as_millis() / LOOK.as_millis();
    let Some(mut last) = used()? else {
        return Ok(());
    };
    while looks > 0 {
        tokio::time::sleep(LOOK).await;
        let Some(now) = used()? else { break };
        if now.saturating_sub(last) <= SETTLED {
            return Ok(());
        }
        last = now;
        looks -= 1;
    }
    report.note(format!(
        "the filled server was still at work after {within:?}"
    ));
    Ok(())
}

/// Memory of the server before it was filled, right after it, and once it settled.
fn add_memory(report: &mut Report, waiting: u32, [empty, filled, settled]: [Option<Usage>; 3]) {
    let (Some(empty), Some(filled), Some(settled)) = (empty, filled, settled) else {
        return;
    };
    let moments = [
        ("empty", "before it was filled", empty),
        ("filled", "once it was filled", filled),
        ("settled", "when it had settled", settled),
    ];
    for (name, when, usage) in moments {
        let megabytes = usage.resident_bytes as f64 / 1e6;
        let label = format!("server memory {when}");
        report.add(format!("{name}_rss_mb"), label, megabytes);
    }
    if let Some(peak) = settled.peak_bytes {
        let label = "  the most until then";
        report.add("peak_rss_mb", label, peak as f64 / 1e6);
    }
    let most = filled.resident_bytes.max(settled.resident_bytes);
    let each = most.saturating_sub(empty.resident_bytes) as f64 / f64::from(waiting);
    report.add(
        "bytes_per_waiting_task",
        "  growth for each waiting task",
        each,
    );
}

fn add_pairs(report: &mut Report, pairs: &[(Slice, Slice)]) {
    let rates = |of: fn(&(Slice, Slice)) -> Slice| {
        Quartiles::of(pairs.iter().map(|pair| of(pair).lives_per_s))
    };
    if let (Some(few), Some(many)) = (rates(|pair| pair.0), rates(|pair| pair.1)) {
        report.add("few_tasks_per_s", "tasks with few waiting", few.median);
        report.add("many_tasks_per_s", "tasks with many waiting", many.median);
    }
    let costs = pairs
        .iter()
        .filter_map(|(few, many)| few.cpu_us_per_life.zip(many.cpu_us_per_life));
    let costs: Vec<_> = costs.collect();
    let few = Quartiles::of(costs.iter().map(|(few, _)| *few));
    let many = Quartiles::of(costs.iter().map(|(_, many)| *many));
    let ratio = Quartiles::of(costs.iter().map(|(few, many)| many / few));
    let (Some(few), Some(many), Some(ratio)) = (few, many, ratio) else {
        report.note(NO_USAGE);
        return;
    };
    report.add(
        "few_server_cpu_us_per_task",
        "server CPU per task with few waiting, median",
        few.median,
    );
    report.add(
        "many_server_cpu_us_per_task",
        "server CPU per task with many waiting, median",
        many.median,
    );
    report.add(
        "cpu_ratio",
        "server CPU per task, many / few, median of the pairs",
        ratio.median,
    );
    report.add("cpu_ratio_lower_quartile", "  lower quartile", ratio.lower);
    report.add("cpu_ratio_upper_quartile", "  upper quartile", ratio.upper);
    report.add("pairs", "pairs of slices", costs.len() as f64);
}

/// The same over all slices and between them: what a server puts off is in it too.
fn add_whole(
    report: &mut Report,
    before: [Option<Usage>; 2],
    after: [Option<Usage>; 2],
    lives: [u64; 2],
) {
    let each = |side: usize| {
        let cpu = after[side]?.cpu.saturating_sub(before[side]?.cpu);
        (lives[side] > 0 && !cpu.is_zero()).then(|| cpu.as_secs_f64() / lives[side] as f64)
    };
    if let (Some(few), Some(many)) = (each(0), each(1)) {
        report.add(
            "cpu_ratio_in_all",
            "  all slices and the time between them",
            many / few,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::{fake, process};

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        backlog: BacklogArgs,
    }

    async fn compared(more: &str) -> Report {
        let line = "backlog --pairs 2 --duration 400ms --clients 2 --batch 10 --waiting 400 \
            --beside 20";
        let line = line.split_ascii_whitespace();
        let line = line.chain(more.split_ascii_whitespace());
        let args = <Cli as clap::Parser>::parse_from(line).backlog;
        let addresses = Sides {
            few: fake::start().await,
            many: fake::start().await,
        };
        // Both servers are in this process.
        let usage = |_| process::usage(std::process::id());
        let mut report = Report::new("backlog");
        measure(&args, &addresses, usage, &mut report, &Progress::new())
            .await
            .unwrap();
        report
    }

    #[tokio::test]
    async fn whole_lives_run_at_both_servers_and_their_costs_are_compared() {
        for more in ["", "--same-queue --input-bytes 7"] {
            let report = compared(more).await;
            let value = |field| report.value(field).unwrap();
            assert!(value("few_tasks_per_s") > 0.0 && value("many_tasks_per_s") > 0.0);
            if cfg!(target_os = "linux") {
                assert!(value("cpu_ratio") > 0.0 && value("cpu_ratio_in_all") > 0.0);
                assert!(value("peak_rss_mb") >= value("empty_rss_mb"));
            }
        }
    }

    fn used(cpu_ms: u64, resident_bytes: u64) -> Option<Usage> {
        Some(Usage {
            cpu: Duration::from_millis(cpu_ms),
            resident_bytes,
            peak_bytes: Some(900_000_000),
            written_bytes: None,
        })
    }

    #[test]
    fn memory_is_told_for_each_waiting_task_from_the_larger_reading() {
        let mut report = Report::new("backlog");
        let readings = [
            used(0, 100_000_000),
            used(0, 500_000_000),
            used(0, 400_000_000),
        ];
        add_memory(&mut report, 1_000_000, readings);
        assert_eq!(report.value("bytes_per_waiting_task"), Some(400.0));
        assert_eq!(report.value("peak_rss_mb"), Some(900.0));
    }

    #[test]
    fn each_pair_gives_a_ratio_and_one_without_a_tick_none() {
        let slice = |cpu| Slice {
            lives_per_s: 10.0,
            cpu_us_per_life: cpu,
        };
        let pair = |few, many| (slice(few), slice(many));
        let mut report = Report::new("backlog");
        let pairs = [
            pair(Some(10.0), Some(10.0)),
            pair(Some(20.0), Some(24.0)),
            pair(Some(10.0), Some(14.0)),
            pair(None, Some(10.0)),
        ];
        add_pairs(&mut report, &pairs);
        assert_eq!(report.value("cpu_ratio"), Some(1.2));
        assert_eq!(report.value("pairs"), Some(3.0));
        add_whole(
            &mut report,
            [used(100, 1), used(100, 1)],
            [used(200, 1), used(400, 1)],
            [10, 20],
        );
        assert_eq!(report.value("cpu_ratio_in_all"), Some(1.5));
    }
}
