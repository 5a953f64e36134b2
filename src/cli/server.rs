//! `duite server`.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Error, error::Exit, output, signals};
use crate::{
    app::{self, Bound},
    config::{self, Loaded},
    telemetry::Probe,
};

/// Run the server
///
/// Serves gRPC on one port, health, reflection and metrics on another, and keeps everything in one data
/// folder. When it is ready it prints one line: listening grpc=ADDR admin=ADDR.
///
/// Every setting may be given as an option, as an environment variable (--drain-timeout is
/// DUITE_DRAIN_TIMEOUT) or in a file, in this order of precedence.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite server
  duite server --listen 0.0.0.0:7643 --data /var/lib/duite
  duite server --config duite.toml --dump-config

A configuration file:
  [server]
  listen = \"0.0.0.0:7643\"
  drain_timeout = \"30s\"

Exit codes: 0 stopped as asked, 1 could not start, 64 wrong configuration, 70 could not go on.")]
pub(super) struct ServerArgs {
    /// Where to serve gRPC; port 0 takes a free one [default: 127.0.0.1:7643]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where to serve health, reflection and metrics (/metrics) [default: 127.0.0.1:7644]
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// The data folder, made where there is none [default: duite-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// When a write is answered: sync, when it is on the disk; interval:MS, when the system has
    /// it, and it is on the disk so many milliseconds later; none, when the system has it
    /// [default: sync]
    #[arg(long, value_name = "MODE")]
    durability: Option<String>,
    /// What stays free on the disk of the data folder: below it new tasks and updates are refused,
    /// reads and results go on; 0 looks at nothing [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    disk_reserve: Option<String>,
    /// How long a stopping server waits for its streams to end [default: 15s]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<String>,
    /// Streams and calls that one connection may have open [default: 256]
    #[arg(long, value_name = "N")]
    max_streams: Option<String>,
    /// Threads that serve connections; 0: one for each processor [default: 0]
    #[arg(long, value_name = "N")]
    io_threads: Option<String>,
    /// Ended tasks that each namespace keeps, the longest ended leave first; 0: all, for their
    /// retention. Those created with a request id stay for 24 h, and count only then
    /// [default: 1000000]
    #[arg(long, value_name = "N")]
    keep_ended: Option<String>,
    /// Whether the address of gRPC serves reflection too, on or off; the admin address always does
    /// [default: on]
    #[arg(long, value_name = "SWITCH")]
    reflection: Option<String>,
    /// A configuration file in TOML [env: DUITE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration as it would be used, and where each setting came from, and exit
    #[arg(long)]
    dump_config: bool,
}

/// A server with its configuration read.
#[derive(Debug)]
pub(super) struct Server {
    loaded: Loaded,
    dump: bool,
}

impl ServerArgs {
    /// Reads the configuration.
    pub(super) fn prepare(self, log: Option<String>) -> Result<Server, Error> {
        let given = [
            ("listen", self.listen),
            ("admin", self.admin),
            ("data", self.data),
            ("durability", self.durability),
            ("disk_reserve", self.disk_reserve),
            ("drain_timeout", self.drain_timeout),
            ("max_streams", self.max_streams),
            ("io_threads", self.io_threads),
            ("keep_ended", self.keep_ended),
            ("reflection", self.reflection),
            ("log", log),
        ];
        let flags: BTreeMap<_, _> = given
            .into_iter()
            .filter_map(|(key, text)| Some((key, text?)))
            .collect();
        let loaded = config::load(
            &flags,
            |name| std::env::var_os(name),
            self.config.as_deref(),
        )
        .map_err(|problems| Error::new(Exit::Config, problems.to_string()))?;
        Ok(Server {
            loaded,
            dump: self.dump_config,
        })
    }
}

impl Server {
    pub(super) fn log_filter(&self) -> &str {
        &self.loaded.config.log
    }

    pub(super) fn only_dumps(&self) -> bool {
        self.dump
    }

    pub(super) async fn run(self, probe: Probe) -> Result<ExitCode, Error> {
        if self.dump {
            output::bytes(self.loaded.to_toml().as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let config = self.loaded.config;
        let within = config.drain_timeout + app::END_WITHIN;
        let stop = signals::stop_requested(within)?;
        app::run(&config, probe, announce, stop)
            .await
            .map_err(|error| match error {
                app::Error::Fatal { .. } => Error::new(Exit::Broken, error.to_string()),
                _ => Error::failed(error.to_string()),
            })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The one line on standard output, for whoever started the process.
fn announce(bound: Bound) {
    let line = format!("listening grpc={} admin={}\n", bound.grpc, bound.admin);
    if let Err(error) = output::bytes(line.as_bytes()) {
        // Serving matters more than being read.
        tracing::warn!(error.message = %error, "nobody reads standard output");
    }
}
