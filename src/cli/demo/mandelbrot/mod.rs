//! `duite demo mandelbrot`: a picture that refines while people watch and steer it.
//!
//! One task renders from coarse to fine and publishes each pass: small keys, and the picture so
//! far as a PNG under `preview`. Whoever changes a parameter in its state steers it.
//!
//! - `render`, `palette`, `image`: the picture, pure
//! - `params`, `paint`: what it can be steered with, and the task's handler
//! - `board`, `tour`, `follow`: watching it, and steering it as long as nobody else does

mod board;
mod follow;
mod image;
mod paint;
mod palette;
mod params;
mod render;
mod tour;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanCount};
use tokio::process::Command;

use self::{
    follow::Follower,
    paint::{PaintInput, Painted},
    params::{Params, TOUR},
    render::{Picture, Size},
};
use super::{
    Error, process::Process, report::quoted, scratch::Scratch, screen::print, stage::Stage, worker,
};
use crate::{
    client::{Client, NewTask, UpdateState},
    proto::v1::{Task, task::Status},
};

pub(super) use paint::{TASK_TYPE, run as paint};

/// The state that the task writes and is steered by.
const STATE: &str = "mandelbrot";
const TASK: &str = "mandelbrot";
const WORKER: &str = "painter";
/// As soon as that a picture is painted again by another worker, were there one.
const LEASE: Duration = Duration::from_secs(3);
/// How long saving the picture may take.
const SAVED_WITHIN: Duration = Duration::from_secs(30);

/// Render the Mandelbrot set and steer it while it refines
///
/// Starts a server and a worker, and submits one task that renders from coarse to fine, over and
/// over. Each pass is published to the state `mandelbrot`: its progress as small keys, the picture
/// so far as a PNG under the key `preview`. The demo goes to four places one after the other until
/// you set a parameter yourself, from another terminal: center_x, center_y, zoom, max_iterations
/// or palette (fire, ocean, gray). At the end it saves the last preview, reads it and compares it
/// with the same picture rendered at once.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = "\
Examples:
  duite demo mandelbrot
  duite demo mandelbrot --time 2m --size 1200x800 --out set.png
  duite state set --addr ADDRESS mandelbrot zoom=50 palette=gray    (the address it says)
  duite state set --addr ADDRESS mandelbrot done=true               (ends it)

Exit codes: 0 the saved picture is right, 1 anything else.")]
pub(super) struct MandelbrotArgs {
    /// Width and height, at most 1,000,000 pixels
    #[arg(long, value_name = "WxH", default_value = "1024x768")]
    size: Size,
    /// How long it waits for changes; the picture then at hand is finished
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    time: Duration,
    /// Where to save the picture [default: a new file in the folder for temporary files]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep the server's data and the logs, and say where
    #[arg(long)]
    pub(super) keep: bool,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 10s or 2m"))?;
    let bounds = Duration::from_millis(100)..=Duration::from_secs(3_600);
    match bounds.contains(&time) {
        true => Ok(time),
        false => Err(format!("{text} is not between 100ms and 1h")),
    }
}

/// Renders, saves and checks.
pub(super) async fn play(args: &MandelbrotArgs, stage: &mut Stage) -> Result<(), Error> {
    if let Some(path) = &args.out {
        can_save(path)?;
    }
    let scratch = stage.scratch.insert(Scratch::anywhere()?);
    let (server, address) = Process::server(scratch).await?;
    stage.server = Some(server);
    stage
        .workers
        .push(Process::worker(WORKER, &address, None, scratch)?);
    let folder = scratch.parent.clone();
    print(&format!("server at {address}, worker {WORKER}"))?;
    print(&format!(
        "steer it: duite state set --addr {address} {STATE} zoom=50 palette=gray"
    ))?;
    print(&format!(
        "see it:   duite state watch --addr {address} {STATE}"
    ))?;

    let client = Client::connect(address.clone())?;
    let begun = Instant::now();
    let set_at = set(&client, &TOUR[0]).await?;
    submit(&client, args).await?;
    let follower = Follower::new(&client, stage, args.time, set_at);
    let task = follower.until_ended().await?;
    let painted = painted(&task)?;

    let path = match &args.out {
        Some(path) => path.clone(),
        None => new_file(&folder)?,
    };
    save(&address, &path).await?;
    let bytes = check(&path, args.size, &painted.params).await?;
    print(&figures(&painted, args.size, begun.elapsed()))?;
    let saved = quoted(&path);
    print(&format!(
        "saved: {saved} ({}), equal to the picture rendered at once",
        HumanBytes(bytes)
    ))?;
    print(&format!(
        "saved with: duite state get --addr {address} {STATE} {} --out {saved}",
        paint::PREVIEW
    ))
}

/// Sets all parameters, and says at which revision.
async fn set(client: &Client, params: &Params) -> Result<i64, Error> {
    let update = client.update_state(STATE);
    let update = params
        .updates()
        .into_iter()
        .fold(update, UpdateState::update);
    let answer = update.send().await?;
    Ok(answer.position.unwrap_or_default().revision)
}

async fn submit(client: &Client, args: &MandelbrotArgs) -> Result<(), Error> {
    let input = PaintInput {
        width: args.size.width,
        height: args.size.height,
        millis: u64::try_from(args.time.as_millis()).unwrap_or(u64::MAX),
    };
    let policy = crate::proto::v1::TaskPolicy {
        max_attempts: 3,
        lease_duration: Some(crate::client::wire_duration(LEASE)),
        ..Default::default()
    };
    let task = NewTask::new(TASK_TYPE).id(TASK).queue(worker::QUEUE);
    let task = task.state(STATE).policy(policy).json(&input);
    let task = task.map_err(|error| Error::Unexpected(error.to_string()))?;
    client.submit(task).await?;
    Ok(())
}

/// What the task says that it did.
fn painted(task: &Task) -> Result<Painted, Error> {
    if task.status() != Status::Succeeded {
        let failure = task.failure.as_ref().map(super::board::with_causes);
        return Err(Error::TaskFailed(format!(
            "{} is {}: {}",
            task.name,
            task.status().as_str_name(),
            failure.unwrap_or_default()
        )));
    }
    let output = task.output.as_ref().map_or(&[][..], |output| &output.data);
    serde_json::from_slice(output)
        .map_err(|error| Error::Unexpected(format!("the output of {}: {error}", task.name)))
}

/// A file of its own that stays.
fn new_file(folder: &Path) -> Result<PathBuf, Error> {
    let mut builder = tempfile::Builder::new();
    let file = builder.prefix("duite-mandelbrot-").suffix(".png");
    let failed = |source| Error::io(format!("create a file in {}", folder.display()), source);
    let file = file.tempfile_in(folder).map_err(failed)?;
    let (_, path) = file.keep().map_err(|error| failed(error.error))?;
    Ok(path)
}

/// Whether the folder is there, asked before all the work.
fn can_save(path: &Path) -> Result<(), Error> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let found = folder.canonicalize();
    found
        .map(drop)
        .map_err(|source| Error::io(format!("save {}: find its folder", path.display()), source))
}

/// Saves the preview as anyone would: with the command line.
async fn save(address: &str, path: &Path) -> Result<(), Error> {
    let program =
        std::env::current_exe().map_err(|source| Error::io("find this binary", source))?;
    let mut command = Command::new(program);
    command.args([
        "state",
        "get",
        "--addr",
        address,
        STATE,
        paint::PREVIEW,
        "--out",
    ]);
    let saving = command.arg(path).kill_on_drop(true).output();
    let Ok(saved) = tokio::time::timeout(SAVED_WITHIN, saving).await else {
        return Err(Error::TimedOut {
            what: "`duite state get`".to_owned(),
            limit: SAVED_WITHIN,
            logs: "(not asked for)".to_owned(),
        });
    };
    let saved = saved.map_err(|source| Error::io("run `duite state get`", source))?;
    if saved.status.success() {
        return Ok(());
    }
    Err(Error::ProcessEnded {
        name: "duite state get".to_owned(),
        status: saved.status.to_string(),
        log: String::from_utf8_lossy(&saved.stderr).into_owned(),
    })
}

/// Compares the saved picture with the same one rendered at once. Says how large the file is.
async fn check(path: &Path, size: Size, params: &Params) -> Result<u64, Error> {
    let (path, params) = (path.to_owned(), *params);
    let checking = tokio::task::spawn_blocking(move || {
        let bytes = std::fs::read(&path)
            .map_err(|source| Error::io(format!("read {}", path.display()), source))?;
        let off = |what: String| Error::Mismatch(format!("{}: {what}", path.display()));
        let saved =
            image::decode(&bytes).map_err(|error| off(format!("it is no PNG of ours: {error}")))?;
        if saved.colours != params.palette.colours() {
            return Err(off(format!("its palette is not {}", params.palette.name())));
        }
        let direct = Picture::direct(&params.view(), size);
        if saved.picture.size != size {
            return Err(off(format!(
                "it has {:?}, not {size:?}",
                saved.picture.size
            )));
        }
        let pairs = saved.picture.shades.iter().zip(&direct.shades);
        match pairs.filter(|(saved, direct)| saved != direct).count() {
            0 => Ok(bytes.len() as u64),
            wrong => Err(off(format!("{wrong} pixels are not as rendered at once"))),
        }
    });
    checking
        .await
        .map_err(|error| Error::Unexpected(error.to_string()))?
}

fn figures(painted: &Painted, size: Size, elapsed: Duration) -> String {
    let count = |count: i64| HumanCount(u64::try_from(count).unwrap_or_default());
    format!(
        "{} pictures of {}x{} begun and {} previews published in {:.1} s; {} pixels, {} iterations\n\
         the last: {}",
        count(painted.pictures),
        size.width,
        size.height,
        count(painted.previews),
        elapsed.as_secs_f64(),
        count(painted.pixels),
        count(painted.iterations),
        board::place(&painted.params),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        width: 40,
        height: 30,
    };

    fn saved(params: &Params, shades: &[u8]) -> tempfile::NamedTempFile {
        let png = image::encode(SIZE, shades, &params.palette.colours()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), png).unwrap();
        file
    }

    #[tokio::test]
    async fn a_saved_picture_with_one_wrong_pixel_is_found_out() {
        let params = TOUR[0];
        let mut shades = Picture::direct(&params.view(), SIZE).shades;
        let right = saved(&params, &shades);
        assert!(check(right.path(), SIZE, &params).await.unwrap() > 0);
        let other = check(right.path(), SIZE, &TOUR[1]).await.unwrap_err();
        assert!(
            other.to_string().contains("its palette is not fire"),
            "{other}"
        );
        shades[7] ^= 1;
        let wrong = saved(&params, &shades);
        let error = check(wrong.path(), SIZE, &params).await.unwrap_err();
        assert!(error.to_string().contains("1 pixels are not"), "{error}");
    }

    #[test]
    fn a_time_outside_its_bounds_is_refused_with_the_bounds() {
        assert_eq!(parse_time("2m"), Ok(Duration::from_secs(120)));
        assert!(
            parse_time("2h")
                .unwrap_err()
                .contains("between 100ms and 1h")
        );
        assert!(parse_time("long").unwrap_err().contains("like 10s"));
    }
}
