//! `duite demo-worker`: one of the demo's worker processes.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{Error, digest, flaky, mandelbrot, slice};
use crate::{
    client::Client,
    worker::{TaskContext, Worker},
};

/// The queue of all of the demo's tasks.
pub(super) const QUEUE: &str = "demo";
/// How long what runs may take when the worker is asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// One of the demo's worker processes. It ends when its standard input does, so that none is left
/// when the demo is gone, however it went.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoWorkerArgs {
    /// Where the server is
    #[arg(long, value_name = "ADDR")]
    addr: String,
    /// Its name
    #[arg(long, value_name = "ID")]
    worker_id: String,
    /// Tasks it runs at once
    #[arg(long, value_name = "N", default_value_t = 2)]
    concurrency: usize,
    /// Die by SIGKILL within moments after the Nth digest has contributed and returned
    #[arg(long, value_name = "N")]
    die_after: Option<u32>,
}

/// Runs a worker until standard input ends.
///
/// # Errors
///
/// When the address cannot be understood or the worker cannot be started.
pub async fn run(args: DemoWorkerArgs) -> Result<(), Error> {
    let client = Client::connect(args.addr)?;
    let worker_id = args.worker_id.clone();
    let fuse = Fuse {
        left: args.die_after.map(|after| Arc::new(AtomicU32::new(after))),
    };
    let worker = Worker::builder(client)
        .queues([QUEUE])
        .worker_id(args.worker_id)
        .concurrency(args.concurrency)
        .handler(slice::TASK_TYPE, move |task: TaskContext| {
            let (worker, fuse) = (worker_id.clone(), fuse.clone());
            async move {
                let output = digest::run(task, worker).await;
                fuse.burn();
                output
            }
        })
        .handler(flaky::TASK_TYPE, flaky::run)
        .handler(mandelbrot::TASK_TYPE, mandelbrot::paint)
        .start()?;
    let (gone, demo) = tokio::sync::oneshot::channel();
    // Not tokio's: a read that it has begun holds up the end of the runtime.
    let waiting = std::thread::Builder::new().name("stdin".to_owned());
    waiting
        .spawn(move || {
            let mut rest = [0; 64];
            while matches!(std::io::stdin().read(&mut rest), Ok(read) if read > 0) {}
            let _ = gone.send(());
        })
        .map_err(|source| Error::io("start a thread", source))?;
    // It cannot go without sending.
    let _ = demo.await;
    worker.shutdown(GRACE).await;
    Ok(())
}

/// Kills the process itself somewhere around the telling of a result: before it is sent, on its
/// way, or before its answer is read. For the demo's own tests.
#[derive(Debug, Clone)]
struct Fuse {
    left: Option<Arc<AtomicU32>>,
}

impl Fuse {
    fn burn(&self) {
        let Some(left) = &self.left else { return };
        if left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_micros(fastrand::u64(0..4000)));
            #[cfg(unix)]
            // It does not return.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            #[cfg(not(unix))]
            std::process::abort();
        });
    }
}
