//! `duite bench ceiling`: what bare tonic and a bare disk do with the bytes that duite is given.
//!
//! The server side is a process of its own and has no work to do; the load is the one that the
//! other benchmarks put on duite. Two of the figures are thresholds: a machine on which they are
//! not reached says nothing about duite.

mod bare;
mod disk;
mod group;
mod serve;
mod service;
mod wire;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clap::Args;
use prost::Message;

use self::disk::DiskRate;
use super::{
    Error,
    args::OutputArgs,
    payload::{self, BatchSource},
    report::{Progress, Report},
    session::warn_of_memory_disk,
    watch,
};

pub(super) use self::{
    bare::{Bare, FanOutShape, PushShape},
    disk::{Store, measure as measure_disk},
    serve::{CeilingServerArgs, run_server},
};

/// Below this many messages a second on one client stream, a run is void.
const LEAST_MESSAGES_PER_S: f64 = 2_000_000.0;
/// Below this many unary calls a second at 64 in flight, a run is void.
const LEAST_CALLS_PER_S: f64 = 25_000.0;
/// Bytes of one journal entry, as duite's are on the average.
const ENTRY_BYTES: usize = 300;

#[derive(Args, Debug)]
pub(super) struct CeilingArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs all ceilings, one after the other, `duration` in all for each group.
pub(super) async fn run(args: CeilingArgs) -> Result<(), Error> {
    let output = args.output;
    let slice = output.slice();
    let progress = Progress::new();
    let mut report = Report::new("ceiling: bare tonic and a bare disk, without duite");
    warn_of_memory_disk(&output.data, &mut report);
    let bare = Bare::start(&output.data).await?;

    progress.step("unary");
    require_calls(&bare, slice, &mut report).await?;
    durable_calls(&bare, slice, &mut report).await?;
    progress.step("client stream");
    require_streams(&bare, slice, &mut report).await?;
    client_streams(&bare, slice, &mut report).await?;
    progress.step("server stream");
    fan_outs(&bare, slice, &mut report).await?;
    progress.step("round trips");
    let latency = bare.round_trips(one_batch(), slice).await?;
    report.add_latency(
        "bidi_",
        "bidirectional round trip of a batch, 1 in flight",
        &latency,
    );
    drop(bare);
    for entries in [1, 32, 128, 1_024] {
        progress.step(&format!("disk, {entries} entries a commit"));
        disk_rates(&output, entries, slice, &mut report).await?;
    }
    drop(progress);
    report.print(output.json)
}

/// Plain unary echo at 64 in flight, and whether it is enough.
pub(super) async fn require_calls(
    bare: &Bare,
    slice: Duration,
    report: &mut Report,
) -> Result<(), Error> {
    let echo = async || Ok(bare.unary(one_task(), 64, false, slice).await?.calls_per_s);
    let rate = best_of_two(LEAST_CALLS_PER_S, echo).await?;
    report.add("bare_unary_64_per_s", "bare unary echo, 64 in flight", rate);
    report.require("bare unary echo at 64 in flight", rate, LEAST_CALLS_PER_S);
    Ok(())
}

/// One client stream of 100-byte messages, and whether it is enough.
pub(super) async fn require_streams(
    bare: &Bare,
    slice: Duration,
    report: &mut Report,
) -> Result<(), Error> {
    let rate = best_of_two(LEAST_MESSAGES_PER_S, async || bare.messages(slice).await).await?;
    report.add(
        "bare_messages_per_s",
        "bare client stream, messages of 100 bytes",
        rate,
    );
    report.require(
        "a bare client stream of 100-byte messages",
        rate,
        LEAST_MESSAGES_PER_S,
    );
    Ok(())
}

/// A neighbour's second of work must not void a run: what is too low is measured once more.
async fn best_of_two(
    least: f64,
    mut measure: impl AsyncFnMut() -> Result<f64, Error>,
) -> Result<f64, Error> {
    let first = measure().await?;
    if first >= least {
        Ok(first)
    } else {
        Ok(first.max(measure().await?))
    }
}

async fn durable_calls(bare: &Bare, slice: Duration, report: &mut Report) -> Result<(), Error> {
    for in_flight in [1, 64, 256] {
        let result = bare.unary(one_task(), in_flight, true, slice).await?;
        let label = format!("unary echo after a shared fdatasync, {in_flight} in flight");
        report.add(
            format!("unary_fsync_{in_flight}_per_s"),
            &*label,
            result.calls_per_s,
        );
        report.add_latency(
            &format!("unary_fsync_{in_flight}_"),
            &label,
            &result.latency,
        );
    }
    Ok(())
}

async fn client_streams(bare: &Bare, slice: Duration, report: &mut Report) -> Result<(), Error> {
    let source = Arc::new(BatchSource::new());
    let cases = [
        ("push_1_batch", "client stream, 1 batch a frame", 1, false),
        (
            "push_64_batches",
            "client stream, 64 batches a frame",
            64,
            false,
        ),
        (
            "push_64_decoded_batches",
            "the same, each batch decoded by prost",
            64,
            true,
        ),
    ];
    for (field, label, batches_per_frame, decoded) in cases {
        let shape = PushShape {
            writers: 8,
            connections: 8,
            batches_per_frame,
            decoded,
        };
        let rate = bare.push(&source, shape, slice).await?;
        report.add(format!("{field}_per_s"), format!("{label}: batches"), rate);
    }
    Ok(())
}

async fn fan_outs(bare: &Bare, slice: Duration, report: &mut Report) -> Result<(), Error> {
    let cases = [
        (
            "fan_out_per_s",
            "1,000 watchers on 8 connections, as fast as can be: frames",
            0,
        ),
        (
            "fan_out_paced_per_s",
            "the same, 1,000 updates a second: frames",
            1_000,
        ),
    ];
    for (field, label, updates_per_s) in cases {
        let shape = FanOutShape {
            watchers: 1_000,
            connections: 8,
            updates_per_s,
        };
        let rate = bare.fan_out(&watch::one_key_delta(), shape, slice).await?;
        report.add(field, label, rate);
    }
    Ok(())
}

async fn disk_rates(
    output: &OutputArgs,
    entries: u64,
    slice: Duration,
    report: &mut Report,
) -> Result<(), Error> {
    let cases = [
        (Store::File, "append", "append + fdatasync"),
        (Store::Fjall, "fjall", "fjall, append + sync"),
        (
            Store::FjallDeleting,
            "fjall_delete",
            "fjall, append + delete + sync",
        ),
    ];
    for (store, field, label) in cases {
        let DiskRate {
            entries_per_s,
            commit,
        } = disk::measure(store, &output.data, entries, ENTRY_BYTES, slice).await?;
        let label = format!("{label}, {entries} a commit");
        report.add(
            format!("{field}_{entries}_entries_per_s"),
            format!("{label}: entries"),
            entries_per_s,
        );
        report.add_latency(&format!("{field}_{entries}_commit_"), &label, &commit);
    }
    Ok(())
}

fn one_task() -> Bytes {
    payload::create_task("bench").encode_to_vec().into()
}

/// A frame with one batch, encoded.
pub(super) fn one_batch() -> Bytes {
    BatchSource::new().frame(1, 1).encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SLICE: Duration = Duration::from_millis(100);

    /// A bare server in this process: the tests have no binary to start.
    async fn bare(folder: &tempfile::TempDir) -> Bare {
        let incoming = serve::bind().unwrap();
        let address = incoming.local_addr().unwrap().to_string();
        let log = group::GroupLog::create(&folder.path().join("bare.log")).unwrap();
        tokio::spawn(serve::serve(incoming, log));
        Bare::at(address)
    }

    #[tokio::test]
    async fn unary_calls_are_echoed_and_the_durable_ones_are_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let bare = bare(&folder).await;
        let plain = bare.unary(one_task(), 8, false, SLICE).await.unwrap();
        assert!(plain.calls_per_s > 0.0 && plain.latency.p50_us().is_some());
        let log = || {
            std::fs::metadata(folder.path().join("bare.log"))
                .unwrap()
                .len()
        };
        assert_eq!(log(), 0);
        let durable = bare.unary(one_task(), 8, true, SLICE).await.unwrap();
        assert!(durable.calls_per_s > 0.0);
        let counted = (durable.calls_per_s * SLICE.as_secs_f64() * 0.9) as u64;
        assert!(log() >= counted * one_task().len() as u64);
    }

    #[tokio::test]
    async fn client_streams_are_counted_by_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let bare = bare(&folder).await;
        assert!(bare.messages(SLICE).await.unwrap() > 0.0);
        let source = Arc::new(BatchSource::new());
        for decoded in [false, true] {
            let shape = PushShape {
                writers: 3,
                connections: 2,
                batches_per_frame: 64,
                decoded,
            };
            assert!(
                bare.push(&source, shape, SLICE).await.unwrap() > 64.0,
                "decoded: {decoded}"
            );
        }
    }

    #[tokio::test]
    async fn every_watcher_gets_frames_and_a_round_trip_has_a_latency() {
        let folder = tempfile::tempdir().unwrap();
        let bare = bare(&folder).await;
        for updates_per_s in [0, 200] {
            let shape = FanOutShape {
                watchers: 10,
                connections: 2,
                updates_per_s,
            };
            let rate = bare
                .fan_out(&watch::one_key_delta(), shape, SLICE)
                .await
                .unwrap();
            assert!(rate > 0.0, "{updates_per_s} updates a second");
        }
        let latency = bare.round_trips(one_batch(), SLICE).await.unwrap();
        assert!(latency.p50_us().is_some_and(|p50| p50 > 1.0));
    }

    #[tokio::test]
    async fn a_ceiling_is_measured_again_only_when_it_is_too_low() {
        let measured = async |values: [f64; 2]| {
            let calls = Cell::new(0);
            let best = best_of_two(10.0, async || Ok(values[calls.replace(calls.get() + 1)])).await;
            (best.unwrap(), calls.get())
        };
        assert_eq!(measured([10.0, 99.0]).await, (10.0, 1));
        assert_eq!(measured([9.0, 11.0]).await, (11.0, 2));
        assert_eq!(measured([9.0, 3.0]).await, (9.0, 2));
    }
}
