//! The `duite` binary: parse, log, run, exit.

use std::process::ExitCode;

use clap::Parser;
use duite::{cli, telemetry};

/// Requests are decoded on one thread and let go of on another, millions of small pieces a second:
/// the system's allocator spends a third of the processor on that (docs/BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A wrong option ends here, with exit code 2 and what would be right.
    let cli = cli::Cli::parse();
    // Reads configuration where the command has one; nothing is opened or connected yet.
    let command = match cli.prepare() {
        Ok(command) => command,
        Err(error) => return error.report(),
    };
    let started = telemetry::start(command.log_filter(), command.log_form(), command.role());
    let telemetry = match started {
        Ok(telemetry) => telemetry,
        Err(error) => return cli::Error::usage(error.to_string()).report(),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            return cli::Error::failed(format!("cannot start the runtime: {error}")).report();
        }
    };
    let code = match runtime.block_on(command.run(telemetry.probe())) {
        Ok(code) => code,
        Err(error) => error.report(),
    };
    // What still runs has had its time (see `app::stop`); a thread that hangs must not keep the
    // process.
    runtime.shutdown_background();
    // Last, so that it tells of the end too.
    telemetry.end();
    code
}

/// At least two threads: what blocks one for a moment must not stop a lease's renewal.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.max(2))
        .enable_all()
        .build()
}
