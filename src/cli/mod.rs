//! The `duite` command line: one module per command.
//!
//! - `server`, `worker`: what runs for long
//! - `submit`, `run`, `task`, `queue`, `state`, `info`: what a person or a script calls
//! - `journal`: what a server keeps: check, dump, backup, restore
//! - `bench`: figures; `demo`: all of it on real work
//! - `connect`, `new_task`: options that several have
//! - `follow`, `watching`, `live`: showing what changes
//! - `output`, `show`, `error`: how results and errors are shown, and the exit codes

pub mod bench;
mod connect;
pub mod demo;
mod error;
mod follow;
mod info;
mod journal;
mod live;
mod new_task;
mod output;
mod queue;
mod run;
mod server;
mod show;
mod signals;
mod state;
mod submit;
mod task;
mod watching;
mod worker;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use error::Error;

use crate::telemetry::{self, Form, Probe, Role};

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
    Server(Box<server::ServerArgs>),
    #[command(flatten)]
    Other(Box<Other>),
}

/// The commands without a configuration of their own.
#[derive(Debug, Subcommand)]
enum Other {
    Worker(worker::WorkerArgs),
    Submit(submit::SubmitArgs),
    Run(run::RunArgs),
    Task(task::TaskCommand),
    Queue(queue::QueueCommand),
    State(state::StateCommand),
    Info(info::InfoArgs),
    Journal(journal::JournalCommand),
    /// Measure this build on this machine, beside what the machine itself allows
    Bench(bench::BenchArgs),
    Demo(demo::DemoArgs),
    #[command(hide = true)]
    DemoWorker(demo::DemoWorkerArgs),
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
    Other(Box<Other>),
}

impl Cli {
    /// Checks what can be checked before anything is opened.
    pub fn prepare(self) -> Result<Prepared, Error> {
        let log = self.global.log;
        let command = match self.command {
            Command::Server(args) => {
                let server = args.prepare(log)?;
                return Ok(Prepared {
                    log: server.log_filter().to_owned(),
                    form: Form::of_service(),
                    ready: Ready::Server(server),
                });
            }
            Command::Other(command) => command,
        };
        let (default, form) = match &*command {
            Other::Worker(_) | Other::DemoWorker(_) => {
                (telemetry::DEFAULT_FILTER, Form::of_service())
            }
            // Their results and errors say what a caller wants to know.
            _ => ("warn", Form::of_command()),
        };
        let variable = std::env::var("DUITE_LOG").ok();
        let log = log.or(variable.filter(|filter| !filter.is_empty()));
        Ok(Prepared {
            log: log.unwrap_or_else(|| default.to_owned()),
            form,
            ready: Ready::Other(command),
        })
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

    /// What it is to whoever collects its telemetry.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.ready {
            Ready::Server(server) if !server.only_dumps() => Role::Server,
            Ready::Other(other) if matches!(**other, Other::Worker(_) | Other::DemoWorker(_)) => {
                Role::Worker
            }
            Ready::Server(_) | Ready::Other(_) => Role::Command,
        }
    }

    /// Runs it to its end. `probe` hears of what a server does.
    pub async fn run(self, probe: Probe) -> Result<ExitCode, Error> {
        let command = match self.ready {
            Ready::Server(server) => return server.run(probe).await,
            Ready::Other(command) => *command,
        };
        let address = command.address().map(str::to_owned);
        let result = match command {
            Other::Worker(args) => args.run().await,
            Other::Submit(args) => args.run().await,
            Other::Run(args) => args.run().await,
            Other::Task(args) => args.run().await,
            Other::Queue(args) => args.run().await,
            Other::State(args) => args.run().await,
            Other::Info(args) => args.run().await,
            Other::Journal(args) => args.run().await,
            Other::Bench(args) => bench::run(args)
                .await
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| Error::failed(error.to_string())),
            Other::Demo(args) => demo::run(args)
                .await
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| Error::failed(error.to_string())),
            Other::DemoWorker(args) => demo::run_worker(args)
                .await
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| Error::failed(error.to_string())),
        };
        result.map_err(|error| match address {
            Some(address) => error.at(&address),
            None => error,
        })
    }
}

impl Other {
    /// The server it speaks to.
    fn address(&self) -> Option<&str> {
        let connect = match self {
            Self::Bench(_) | Self::Demo(_) | Self::DemoWorker(_) => return None,
            Self::Journal(args) => return args.address(),
            Self::Worker(args) => &args.connect,
            Self::Submit(args) => &args.connect,
            Self::Run(args) => &args.connect,
            Self::Task(args) => &args.connect,
            Self::Queue(args) => &args.connect,
            Self::State(args) => &args.connect,
            Self::Info(args) => &args.connect,
        };
        Some(connect.address())
    }
}
