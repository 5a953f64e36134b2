//! The `duite` command line: one module per command.
//!
//! - `server`, `worker`: what runs for long
//! - `submit`, `run`, `task`, `state`, `info`: what a person or a script calls
//! - `bench`: figures
//! - `output`, `error`: how results and errors are shown, and the exit codes

pub mod bench;
mod error;
mod server;
mod signals;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use error::Error;

use crate::telemetry::Form;

/// Submit tasks, run them on remote workers, and watch their progress and shared state live.
#[derive(Debug, Parser)]
#[command(
    name = "duite",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// What to log to standard error: a level, or targets with levels [env: DUITE_LOG]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Server(server::ServerArgs),
}

/// A command that is ready to run.
#[derive(Debug)]
pub struct Prepared {
    log: String,
    form: Form,
    ready: Ready,
}

#[derive(Debug)]
enum Ready {
    Server(server::Server),
}

impl Cli {
    /// Checks what can be checked before anything is opened.
    pub fn prepare(self) -> Result<Prepared, Error> {
        let (log, form, ready) = match self.command {
            Command::Server(args) => {
                let server = args.prepare(self.global.log)?;
                let log = server.log_filter().to_owned();
                (log, Form::of_service(), Ready::Server(server))
            }
        };
        Ok(Prepared { log, form, ready })
    }
}

impl Prepared {
    /// What to log.
    #[must_use]
    pub fn log_filter(&self) -> &str {
        &self.log
    }

    /// How.
    #[must_use]
    pub fn log_form(&self) -> Form {
        self.form
    }

    /// Runs it to its end.
    pub async fn run(self) -> Result<ExitCode, Error> {
        match self.ready {
            Ready::Server(server) => server.run().await,
        }
    }
}
