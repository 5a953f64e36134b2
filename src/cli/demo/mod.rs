//! `duite demo`: a server, two worker processes and real work, with a worker killed in the middle.
//!
//! - `files`, `slice`: the list of files, fixed at the start, and its tasks
//! - `worker`, `digest`, `flaky`: what the worker processes run
//! - `scratch`, `process`, `stage`: what is started, and that all of it ends
//! - `follow`, `board`, `screen`, `kill`: watching it, showing it, killing a part of it
//! - `verify`, `manifest`, `report`: the figures checked and told
//! - `mandelbrot`: another demo, of a picture that refines and is steered

mod board;
mod digest;
mod error;
mod files;
mod flaky;
mod follow;
mod kill;
mod mandelbrot;
mod manifest;
mod path;
mod process;
mod report;
mod scratch;
mod screen;
mod slice;
mod stage;
mod verify;
mod worker;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use board::Totals;
use digest::STATE;
pub use error::Error;
use files::Listing;
use follow::{Ended, Follower};
use kill::{KillWhen, Killer};
use process::Process;
use scratch::Scratch;
use screen::{Screen, print};
use slice::{SliceInput, SliceOutput};
use stage::Stage;
pub use worker::{DemoWorkerArgs, run as run_worker};

use crate::{
    client::{Client, NewTask, decode_value, from_value},
    proto::v1::{Task, TaskPolicy, task::Status},
};

const WORKERS: [&str; 2] = ["worker-1", "worker-2"];
/// So soon a killed worker's slices are run again.
const LEASE: Duration = Duration::from_secs(3);
/// Outputs that are fetched at once.
const FETCHES: usize = 16;

/// Show it all on real work, with a worker killed in the middle
///
/// Starts a server and two worker processes, and submits a SHA-256 digest of every file under a
/// folder, one task per slice of the tree, all adding to one shared state; and a task that fails
/// twice before it succeeds. One worker is killed with SIGKILL in the middle. At the end the shared
/// counts are compared with the list of files, and a manifest is written that `sha256sum -c`
/// accepts.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "\
Examples:
  duite demo
  duite demo --path ~/src --keep
  duite demo mandelbrot

Exit codes: 0 every figure agrees, 1 anything else.")]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArgs {
    #[command(subcommand)]
    scene: Option<Scene>,
    /// The folder to digest; .gitignore is honoured, hidden files count
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// Keep the server's data and the logs, and say where
    #[arg(long)]
    keep: bool,
    /// Where to write the manifest, outside DIR [default: the folder for temporary files]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// When the worker dies, for tests
    #[arg(long, value_enum, default_value_t = KillWhen::Busy, hide = true)]
    kill: KillWhen,
}

/// Another demo in its place.
#[derive(Debug, Clone, clap::Subcommand)]
enum Scene {
    Mandelbrot(mandelbrot::MandelbrotArgs),
}

impl DemoArgs {
    fn keep(&self) -> bool {
        match &self.scene {
            Some(Scene::Mandelbrot(args)) => args.keep,
            None => self.keep,
        }
    }
}

/// Runs the demo. Whatever it started has ended when it returns.
///
/// # Errors
///
/// When a figure is off, or something failed that should not have.
pub async fn run(args: DemoArgs) -> Result<(), Error> {
    let interrupted = interrupted()?;
    let stopped = CancellationToken::new();
    let _stop_walking = stopped.clone().drop_guard();
    let mut stage = Stage::default();
    let result = tokio::select! {
        result = async {
            match &args.scene {
                Some(Scene::Mandelbrot(args)) => mandelbrot::play(args, &mut stage).await,
                None => play(&args, &mut stage, stopped).await,
            }
        } => result,
        () = interrupted => Err(Error::Interrupted),
    };
    if args.keep()
        && let Some(scratch) = &mut stage.scratch
    {
        scratch.keep();
        print(&format!("kept: {}", scratch.path().display()))?;
        print(&format!(
            "go on with: duite server --data {}",
            report::quoted(&scratch.data())
        ))?;
    }
    match result {
        Ok(()) => stage.clear().await,
        Err(error) => {
            if matches!(
                error,
                Error::Client(_) | Error::TaskFailed(_) | Error::Mismatch(_)
            ) {
                eprintln!("the ends of the logs:\n{}", stage.tails());
            }
            stage.abandon().await;
            Err(error)
        }
    }
}

async fn play(args: &DemoArgs, stage: &mut Stage, stop: CancellationToken) -> Result<(), Error> {
    let root = folder(&args.path)?;
    let wanted = args.manifest.as_deref();
    let wanted = wanted
        .map(|path| manifest::wanted(path, &root))
        .transpose()?;
    let listing = {
        let root = root.clone();
        let walking = tokio::task::spawn_blocking(move || files::walk(&root, &stop));
        walking
            .await
            .map_err(|error| Error::Unexpected(error.to_string()))??
    };
    if listing.files.is_empty() {
        return Err(Error::NothingToDo(root));
    }
    let slices = slice::cut(&listing.files);
    print(&report::found(&root, &listing, slices.len()))?;

    let scratch = stage.scratch.insert(Scratch::outside(&root)?);
    let (server, address) = Process::server(scratch).await?;
    stage.server = Some(server);
    for (index, name) in WORKERS.into_iter().enumerate() {
        let die_after = Killer::die_after(args.kill, index, slices.len());
        let worker = Process::worker(name, &address, die_after, scratch)?;
        stage.workers.push(worker);
    }
    print(&format!(
        "server at {address}, workers {}",
        WORKERS.join(" and ")
    ))?;

    let settings = scratch.path().join("settings.toml");
    let (folder, client) = (scratch.parent.clone(), Client::connect(address)?);
    let plan = Totals {
        files: listing.files.len() as u64,
        bytes: listing.bytes(),
        slices: slices.len() as u64,
    };
    let started = Instant::now();
    submit(&client, &root, &listing, &slices, plan, settings).await?;
    let screen = Screen::new(plan, &WORKERS.map(str::to_owned));
    let killer = Killer::new(args.kill, slices.len());
    let follower = Follower::new(&client, stage, screen, killer, slices.len() + 1);
    let mut ended = follower.until_ended().await?;
    let elapsed = started.elapsed();
    fetch_causes(&client, &mut ended).await?;

    all_succeeded(&ended)?;
    let counted = counted(&client).await?;
    let outputs = outputs(&client, slices.len()).await?;
    let mut verdict = verify::check(&listing.files, &slices, &outputs, counted);
    verdict.problems.extend(report::unexpected_losses(&ended));
    let pace = report::Pace::of(&ended, &outputs);
    print(&report::figures(&verdict, counted, &ended, elapsed, pace))?;
    if !verdict.problems.is_empty() {
        return Err(Error::Mismatch(verdict.problems.join("\n")));
    }
    let manifest = manifest::write(verdict.lines, wanted.as_deref(), &folder)?;
    print(&format!("manifest: {}", manifest.display()))?;
    let (root, manifest) = (report::quoted(&root), report::quoted(&manifest));
    print(&format!(
        "check it with: (cd {root} && sha256sum --quiet -c {manifest})"
    ))
}

fn folder(path: &Path) -> Result<PathBuf, Error> {
    let root = path
        .canonicalize()
        .map_err(|source| Error::io(format!("find the folder {}", path.display()), source))?;
    if !root.is_dir() {
        return Err(Error::NotAFolder(root));
    }
    Ok(root)
}

async fn submit(
    client: &Client,
    root: &Path,
    listing: &Listing,
    slices: &[Range<usize>],
    plan: Totals,
    settings: PathBuf,
) -> Result<(), Error> {
    let wire = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let totals = client.update_state(STATE);
    let totals = totals.put("files_total", wire(plan.files));
    let totals = totals.put("bytes_total", wire(plan.bytes));
    let totals = totals.put("slices_total", wire(plan.slices));
    totals.send().await?;
    let policy = TaskPolicy {
        // Three for itself, and two that may be lost with a worker.
        max_attempts: 5,
        lease_duration: Some(crate::client::wire_duration(LEASE)),
        ..TaskPolicy::default()
    };
    let task = |task_type: &str, id: String| {
        let task = NewTask::new(task_type).id(id).queue(worker::QUEUE);
        let task = task.state(STATE).policy(policy);
        task.retry_delay(Duration::from_millis(500), Duration::from_secs(1))
    };
    let no_json = |error: serde_json::Error| Error::Unexpected(error.to_string());
    let input = flaky::FlakyInput { settings };
    let mut tasks = vec![
        task(flaky::TASK_TYPE, flaky::ID.to_owned())
            .json(&input)
            .map_err(no_json)?,
    ];
    for (index, slice) in slices.iter().enumerate() {
        let input = SliceInput::new(index, root, &listing.files[slice.clone()]);
        let task = task(slice::TASK_TYPE, slice::id(index)).json(&input);
        tasks.push(task.map_err(no_json)?);
    }
    for submitted in client.submit_all(tasks).await? {
        submitted?;
    }
    Ok(())
}

/// A watch leaves out what caused a failure: the tasks that have any are read whole.
async fn fetch_causes(client: &Client, ended: &mut Ended) -> Result<(), Error> {
    let failed = |task: &&mut Task| task.attempts.iter().any(|one| one.failure.is_some());
    for task in ended.tasks.values_mut().filter(failed) {
        *task = client.get_task(&task.name).await?;
    }
    Ok(())
}

fn all_succeeded(ended: &Ended) -> Result<(), Error> {
    let others = ended
        .tasks
        .values()
        .filter(|task| task.status() != Status::Succeeded);
    let told: Vec<String> = others
        .map(|task| {
            let failure = task.failure.as_ref().map(board::with_causes);
            let failure = failure.unwrap_or_default();
            format!(
                "{} is {}: {failure}",
                task.name,
                task.status().as_str_name()
            )
        })
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    Err(Error::TaskFailed(told.join("\n")))
}

/// What the shared state has counted, read when all tasks have ended.
async fn counted(client: &Client) -> Result<Totals, Error> {
    let (state, _) = client.get_state(STATE, &[]).await?;
    let count = |key: &str| {
        let entry = state.entries.iter().find(|entry| entry.key == key);
        let value = entry.and_then(|entry| decode_value(&entry.value).ok());
        let count = value.and_then(|value| from_value(&value).as_u64());
        count.ok_or_else(|| Error::Unexpected(format!("the state {STATE} has no count {key}")))
    };
    Ok(Totals {
        files: count("files_done")?,
        bytes: count("bytes_done")?,
        slices: count("slices_done")?,
    })
}

/// The outputs of all slices, in order.
async fn outputs(client: &Client, slices: usize) -> Result<Vec<SliceOutput>, Error> {
    let fetch = |index| async move {
        let task = client.get_task(&slice::id(index)).await?;
        let data = task.output.unwrap_or_default().data;
        serde_json::from_slice(&data).map_err(|error| {
            Error::Unexpected(format!("the output of {}: {error}", slice::id(index)))
        })
    };
    stream::iter(0..slices)
        .map(fetch)
        .buffered(FETCHES)
        .try_collect()
        .await
}

/// Ready when someone asks the demo to stop, or its terminal is gone.
#[cfg(unix)]
fn interrupted() -> Result<impl Future<Output = ()>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|source| Error::io("listen for signals", source));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn interrupted() -> Result<impl Future<Output = ()>, Error> {
    Ok(async {
        // An error means that there is no console to press keys at.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
