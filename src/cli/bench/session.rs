//! What every benchmark has: a server under test, a bare one beside it, and a report.

use std::{path::Path, time::Duration};

use tonic::transport::{Channel, Endpoint};

use super::{
    Error,
    args::{CommonArgs, OutputArgs},
    ceiling::{self, Bare},
    measure::{Meter, Reading},
    process::Usage,
    report::{Progress, Report},
    server::ServerProcess,
};

/// HTTP/2 windows of the bare server and of the load; duite's server has the same.
pub(super) const STREAM_WINDOW: u32 = 1 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 4 << 20;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The server that is measured.
#[derive(Debug)]
pub(super) enum Target {
    /// Our own process, gone at the end.
    Own(Box<ServerProcess>),
    /// Somebody's; what it uses is not known.
    Given(String),
}

impl Target {
    async fn find(common: &CommonArgs) -> Result<Self, Error> {
        match &common.addr {
            Some(address) => Ok(Self::Given(address.clone())),
            None => ServerProcess::start(&common.output.data)
                .await
                .map(|process| Self::Own(Box::new(process))),
        }
    }

    pub(super) fn address(&self) -> &str {
        match self {
            Self::Own(process) => process.address(),
            Self::Given(address) => address,
        }
    }

    /// What the server has used so far; `None` where it is not ours or the system does not say.
    pub(super) fn usage(&self) -> Result<Option<Usage>, Error> {
        match self {
            Self::Own(process) => process.usage(),
            Self::Given(_) => Ok(None),
        }
    }

    /// What has been done and used so far.
    pub(super) fn sample(&self, meter: &Meter) -> Result<Sample, Error> {
        let (usage, data_bytes) = match self {
            Self::Own(process) => (process.usage()?, Some(process.data_bytes())),
            Self::Given(_) => (None, None),
        };
        Ok(Sample {
            reading: meter.reading(),
            usage,
            data_bytes,
        })
    }
}

/// One moment of a measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    reading: Reading,
    usage: Option<Usage>,
    data_bytes: Option<u64>,
}

/// What happened between two moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    before: Sample,
    after: Sample,
}

impl Span {
    /// Samples when `meter` begins and when it ends, while the load runs.
    pub(super) async fn over(meter: &Meter, target: &Target) -> Result<Self, Error> {
        meter.begins().await;
        let before = target.sample(meter)?;
        meter.ends().await;
        Ok(Self {
            before,
            after: target.sample(meter)?,
        })
    }

    pub(super) fn per_second(&self) -> f64 {
        self.after.reading.per_second_since(self.before.reading)
    }

    /// The server's processor time and memory; each thing done is a `thing`.
    pub(super) fn add_server(&self, report: &mut Report, thing: &str) {
        let (Some(before), Some(after)) = (self.before.usage, self.after.usage) else {
            return;
        };
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        report.add("server_cpu_s", "server CPU in the measured time", cpu);
        let done = self.done();
        if done > 0.0 && cpu > 0.0 {
            let field = format!("server_cpu_us_per_{thing}");
            report.add(field, format!("server CPU per {thing}"), cpu * 1e6 / done);
        }
        let megabytes = after.resident_bytes as f64 / 1e6;
        report.add("server_rss_mb", "server memory at the end", megabytes);
    }

    /// What went to the server's disk for each `thing` done.
    pub(super) fn add_disk(&self, report: &mut Report, thing: &str) {
        let done = self.done();
        if done == 0.0 {
            return;
        }
        if let (Some(before), Some(after)) = (self.before.data_bytes, self.after.data_bytes) {
            // Negative when compaction outran the load; that is what was seen.
            let grown = (after as f64 - before as f64) / done;
            let label = format!("growth of the data folder per {thing}");
            report.add(format!("journal_bytes_per_{thing}"), label, grown);
        }
        let written = |sample: Sample| sample.usage.and_then(|usage| usage.written_bytes);
        if let (Some(before), Some(after)) = (written(self.before), written(self.after)) {
            let written = after.saturating_sub(before) as f64 / done;
            let label = format!("written to the disk per {thing}");
            report.add(format!("written_bytes_per_{thing}"), label, written);
        }
    }

    fn done(&self) -> f64 {
        self.after
            .reading
            .done
            .saturating_sub(self.before.reading.done) as f64
    }
}

/// A server, a bare server unless left out, and the report that is being written.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) target: Target,
    pub(super) bare: Option<Bare>,
    pub(super) report: Report,
    pub(super) progress: Progress,
    pub(super) output: OutputArgs,
}

impl Session {
    pub(super) async fn start(common: &CommonArgs, title: String) -> Result<Self, Error> {
        let progress = Progress::new();
        let mut report = Report::new(title);
        progress.step("starting");
        warn_of_memory_disk(&common.output.data, &mut report);
        let target = Target::find(common).await?;
        let bare = match common.no_ceiling {
            true => None,
            false => Some(Bare::start(&common.output.data).await?),
        };
        Ok(Self {
            target,
            bare,
            report,
            progress,
            output: common.output.clone(),
        })
    }

    /// Voids the run when bare client streams are too slow.
    pub(super) async fn require_streams(&mut self) -> Result<(), Error> {
        if let Some(bare) = &self.bare {
            self.progress.step("bare client stream");
            ceiling::require_streams(bare, self.output.slice(), &mut self.report).await?;
        }
        Ok(())
    }

    /// Voids the run when bare unary calls are too slow.
    pub(super) async fn require_calls(&mut self) -> Result<(), Error> {
        if let Some(bare) = &self.bare {
            self.progress.step("bare unary calls");
            ceiling::require_calls(bare, self.output.slice(), &mut self.report).await?;
        }
        Ok(())
    }

    /// Stops the servers, then prints.
    pub(super) async fn finish(self) -> Result<(), Error> {
        drop(self.bare);
        if let Target::Own(process) = self.target {
            process.stop().await?;
        }
        drop(self.progress);
        self.report.print(self.output.json)
    }
}

/// A sync costs nothing on a file system in memory: say so.
pub(super) fn warn_of_memory_disk(folder: &Path, report: &mut Report) {
    #[cfg(target_os = "linux")]
    {
        const TMPFS: i128 = 0x0102_1994; // statfs(2)
        if rustix::fs::statfs(folder).is_ok_and(|info| i128::from(info.f_type) == TMPFS) {
            let folder = folder.display();
            report.note(format!(
                "{folder} is in memory, where a sync costs nothing; use --data DIR"
            ));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (folder, report);
}

/// One connection to `address`, with or without its scheme.
pub(super) async fn connect(address: &str) -> Result<Channel, Error> {
    let failed = |source| Error::Connect {
        address: address.to_owned(),
        source,
    };
    let uri = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    Endpoint::from_shared(uri)
        .map_err(failed)?
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_timeout(CONNECT_TIMEOUT)
        .connect()
        .await
        .map_err(failed)
}

/// `count` connections to `address`, at least one.
pub(super) async fn connect_many(address: &str, count: usize) -> Result<Vec<Channel>, Error> {
    let mut channels = Vec::with_capacity(count.max(1));
    for _ in 0..count.max(1) {
        channels.push(connect(address).await?);
    }
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_reported_with_its_address() {
        // Bound and closed again: nobody listens there.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = connect(&address).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot connect to {address}")),
            "{error}"
        );
    }

    #[test]
    fn what_the_server_used_is_told_per_thing_done() {
        let sample = |at, done, cpu, written, data| Sample {
            reading: Reading { at, done },
            usage: Some(Usage {
                cpu: Duration::from_secs(cpu),
                resident_bytes: 25_000_000,
                peak_bytes: None,
                written_bytes: Some(written),
            }),
            data_bytes: Some(data),
        };
        let at = Instant::now();
        let span = Span {
            before: sample(at, 0, 1, 0, 500),
            after: sample(at + Duration::from_secs(2), 1_000_000, 3, 160_000_000, 500),
        };
        assert_eq!(span.per_second(), 500_000.0);
        let mut report = Report::new("push");
        span.add_server(&mut report, "batch");
        span.add_disk(&mut report, "batch");
        let text = format!("{report:?}");
        for expected in [
            r#""server_cpu_s", label: "server CPU in the measured time", value: 2.0"#,
            r#""server_cpu_us_per_batch", label: "server CPU per batch", value: 2.0"#,
            r#""server_rss_mb", label: "server memory at the end", value: 25.0"#,
            r#""written_bytes_per_batch", label: "written to the disk per batch", value: 160.0"#,
            r#""journal_bytes_per_batch", label: "growth of the data folder per batch", value: 0.0"#,
        ] {
            assert!(text.contains(expected), "{expected} not in {text}");
        }
    }
}
