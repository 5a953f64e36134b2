//! `duite bench flood`: very many very small batches on one connection, none waiting for another.
//!
//! Each batch of about 50 bytes leaves in an HTTP/2 DATA frame of its own, far below the 256 bytes
//! from which h2 counts a frame as small. h2 answers too many of them with GOAWAY
//! ENHANCE_YOUR_CALM, so the run fails when the connection is cut before the last acknowledgement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    Error,
    args::CommonArgs,
    measure::Meter,
    payload::{BatchSource, PushFrame, fresh_state_name},
    push::{
        flow::{Flow, Limits},
        writer,
    },
    session::{Session, connect},
    wait,
};

/// How long all of it may take.
const WITHIN: Duration = Duration::from_secs(120);

#[derive(Args, Debug)]
pub(super) struct FloodArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Batches to send; --duration does not apply
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    batches: u64,
    /// Window that the writer asks the server for, in batches
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    window: i32,
}

pub(super) async fn run(args: FloodArgs) -> Result<(), Error> {
    let title = format!(
        "flood: {} batches of 50 bytes, each in a frame of its own",
        args.batches
    );
    let mut session = Session::start(&args.common, title).await?;
    session.require_streams().await?;
    measure(&args, &mut session).await?;
    session.finish().await
}

async fn measure(args: &FloodArgs, session: &mut Session) -> Result<(), Error> {
    session.progress.step("pushing");
    let limits = Limits {
        per_frame: 1,
        total: args.batches,
        one_by_one: true,
        ..Limits::default()
    };
    let open = PushFrame::open(&fresh_state_name(), args.window);
    let flow = Flow::new(Arc::new(BatchSource::small()), open, limits);
    let meter = Meter::open_ended();
    let channel = connect(session.target.address()).await?;
    let before = session.target.usage()?;
    let begun = Instant::now();
    let pushed = writer::write(channel, Arc::clone(&flow), meter.clone());
    let pushed = wait::at_most(WITHIN, "the last acknowledgement", pushed).await;
    let seconds = begun.elapsed().as_secs_f64();
    let acked = meter.reading().done;
    // A stream that breaks here is what this run looks for, so say how far it came.
    pushed.map_err(|error| match error {
        Error::Call { call, status } => {
            let message = format!(
                "{} (cut after {acked} of {} batches)",
                status.message(),
                args.batches
            );
            Error::call(call)(tonic::Status::new(status.code(), message))
        }
        other => other,
    })?;
    let (sent, frames) = flow.sent();
    if acked != args.batches || sent != frames {
        let what = format!(
            "{acked} of {} batches acknowledged, in {frames} frames",
            args.batches
        );
        return Err(Error::unexpected("PushState", what));
    }
    let report = &mut session.report;
    report.add("acked_batches", "batches acknowledged", acked as f64);
    report.add(
        "data_frames",
        "frames of one batch that they came in",
        frames as f64,
    );
    // One stream from first to last: a reconnect would have been an error.
    report.add("connections_cut", "connections cut", 0.0);
    report.add(
        "batches_per_s",
        "acknowledged batches",
        acked as f64 / seconds,
    );
    report.add_latency("", "sent to acknowledged", &meter.latency());
    if let (Some(before), Some(after)) = (before, session.target.usage()?) {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        report.add(
            "server_cpu_us_per_batch",
            "server CPU per batch",
            cpu * 1e6 / acked as f64,
        );
        report.add(
            "server_rss_mb",
            "server memory at the end",
            after.resident_bytes as f64 / 1e6,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::cli::bench::fake;

    /// Passes bytes on to `server` and counts the DATA frames of fewer than 256 bytes among them.
    async fn counting_proxy(server: String) -> (String, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let small = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&small);
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let server = TcpStream::connect(server).await.unwrap();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let mut preface = [0; 24];
            from_client.read_exact(&mut preface).await.unwrap();
            to_server.write_all(&preface).await.unwrap();
            // RFC 9113, section 4.1: length, type, flags, stream; DATA is type 0.
            let mut head = [0; 9];
            while from_client.read_exact(&mut head).await.is_ok() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                from_client.read_exact(&mut payload).await.unwrap();
                if head[3] == 0 && (1..256).contains(&length) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                to_server
                    .write_all(&[&head[..], &payload].concat())
                    .await
                    .unwrap();
            }
        });
        (address, small)
    }

    #[tokio::test]
    async fn each_batch_leaves_in_a_small_data_frame_of_its_own() {
        let (address, small) = counting_proxy(fake::start().await).await;
        flooded_at(&address, &["--batches", "300"]).await.unwrap();
        // One more opens the stream.
        assert_eq!(small.load(Ordering::Relaxed), 301);
    }

    async fn flooded(more: &[&str]) -> Result<Session, Error> {
        flooded_at(&fake::start().await, more).await
    }

    async fn flooded_at(address: &str, more: &[&str]) -> Result<Session, Error> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            flood: FloodArgs,
        }
        let fixed = ["flood", "--no-ceiling", "--addr", address];
        let args = <Cli as clap::Parser>::parse_from(fixed.iter().chain(more)).flood;
        let mut session = Session::start(&args.common, "flood".to_owned()).await?;
        measure(&args, &mut session).await?;
        Ok(session)
    }

    #[tokio::test]
    async fn every_batch_goes_in_a_frame_of_its_own_and_is_acknowledged() {
        let report = flooded(&["--batches", "300"]).await.unwrap().report;
        assert_eq!(report.value("acked_batches"), Some(300.0));
        assert_eq!(report.value("data_frames"), Some(300.0));
        assert_eq!(report.value("connections_cut"), Some(0.0));
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_ends_the_run_and_says_how_far_it_came() {
        let window = fake::CUTTING_WINDOW.to_string();
        let error = flooded(&["--batches", "300", "--window", &window])
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("of 300 batches"), "{text}");
    }
}
