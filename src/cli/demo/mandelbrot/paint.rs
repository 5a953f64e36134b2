//! The handler of `demo.mandelbrot`: refines a picture, publishes it pass by pass, and begins anew
//! when someone changes a parameter in the task's state.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    image,
    params::{self, Keys as _, Params},
    render::{BLOCKS, Picture, Size, Work},
};
use crate::{
    client::{Changes, StateQueue, Update, blob},
    worker::{Output, TaskContext, TaskFailure},
};

pub(in crate::cli::demo) const TASK_TYPE: &str = "demo.mandelbrot";
/// Small keys for eyes.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

pub(super) const PREVIEW: &str = "preview";
/// The number of the picture at hand, from 1.
pub(super) const PICTURE: &str = "picture";
pub(super) const PASS: &str = "pass";
pub(super) const PROGRESS: &str = "progress";
pub(super) const PIXELS: &str = "pixels";
pub(super) const ITERATIONS: &str = "iterations";
/// The number of the last picture that is complete.
pub(super) const COMPLETE: &str = "complete";
pub(super) const PROBLEM: &str = "problem";

/// The task's input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PaintInput {
    pub(super) width: usize,
    pub(super) height: usize,
    /// So long it waits for changes; the picture then at hand is still finished.
    pub(super) millis: u64,
}

/// Its output: what the last preview shows, and what it all took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Painted {
    pub(super) params: Params,
    /// Pictures begun, those included that a change cut short.
    pub(super) pictures: i64,
    pub(super) previews: i64,
    pub(super) pixels: i64,
    pub(super) iterations: i64,
}

/// Refines pictures until the time is over.
pub(in crate::cli::demo) async fn run(task: TaskContext) -> Result<Output, TaskFailure> {
    let input: PaintInput = task.json()?;
    let size: Size = format!("{}x{}", input.width, input.height)
        .parse()
        .map_err(|error: String| TaskFailure::new("input.invalid", error).permanent())?;
    let until = Instant::now() + Duration::from_millis(input.millis);
    let (wish, wishes) = watch::channel(None);
    task.on_change(&task.state_name(), params::KEYS, move |changes| {
        wish.send_replace(Some(Wish::read(changes)));
    });
    let mut wishes = Wishes {
        wishes,
        until,
        state: task.state(),
    };
    let cancelled = task.cancelled();
    let mut params = match wishes.next(None).await {
        News::Steered(params) => params,
        News::Enough => Params::default(),
    };
    let mut painter = Painter::new(size, task.state());
    let mut enough = false;
    loop {
        let stale = CancellationToken::new();
        let (its_params, its_stale) = (params, stale.clone());
        let mut painting = tokio::task::spawn_blocking(move || {
            painter.paint(&its_params, &its_stale).map(|()| painter)
        });
        // Until the picture is complete, or not wanted any more and given up.
        loop {
            tokio::select! {
                painted = &mut painting => {
                    painter = painted??;
                    break;
                }
                news = wishes.next(Some(&params)), if !enough && !stale.is_cancelled() => match news {
                    News::Steered(steered) => {
                        params = steered;
                        stale.cancel();
                    }
                    News::Enough => enough = true,
                },
                () = cancelled.cancelled(), if !stale.is_cancelled() => stale.cancel(),
            }
        }
        if cancelled.is_cancelled() {
            return Err(TaskFailure::cancelled());
        }
        if stale.is_cancelled() {
            continue;
        }
        if enough {
            break;
        }
        tokio::select! {
            news = wishes.next(Some(&params)) => match news {
                News::Steered(steered) => params = steered,
                News::Enough => break,
            },
            () = cancelled.cancelled() => return Err(TaskFailure::cancelled()),
        }
    }
    Ok(Output::from(serde_json::to_value(painter.told(params))?))
}

/// What the keys say, or what is wrong with them.
#[derive(Debug, Clone)]
struct Wish {
    params: Result<Params, String>,
    done: bool,
}

impl Wish {
    fn read(changes: &Changes) -> Self {
        Self {
            params: Params::read(changes),
            done: changes.key(params::DONE).ok().flatten().unwrap_or(false),
        }
    }
}

enum News {
    Steered(Params),
    /// The time is over, or someone wants no more.
    Enough,
}

/// What people want of the task.
struct Wishes {
    wishes: watch::Receiver<Option<Wish>>,
    until: Instant,
    state: StateQueue,
}

impl Wishes {
    /// Waits for parameters other than `current`. Cancel safe.
    async fn next(&mut self, current: Option<&Params>) -> News {
        loop {
            // Seen before it is waited for: a call that was dropped may have taken the news.
            let wish = self.wishes.borrow_and_update().clone();
            if let Some(Wish { params, done }) = wish {
                match params {
                    Ok(params) => {
                        if self.state.get(PROBLEM).is_some() {
                            self.state.delete(PROBLEM);
                        }
                        if current != Some(&params) {
                            return News::Steered(params);
                        }
                    }
                    // What is shown goes on; what was wrong is told.
                    Err(problem) => self.state.set(PROBLEM, problem),
                }
                // Last: what was steered before it is still shown.
                if done {
                    return News::Enough;
                }
            }
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() {
                    return News::Enough;
                },
                () = tokio::time::sleep_until(self.until.into()) => return News::Enough,
            }
        }
    }
}

/// Makes the pictures and tells of them.
struct Painter {
    size: Size,
    state: StateQueue,
    pictures: i64,
    previews: i64,
    total: Work,
}

impl Painter {
    fn new(size: Size, state: StateQueue) -> Self {
        Self {
            size,
            state,
            pictures: 0,
            previews: 0,
            total: Work::default(),
        }
    }

    /// Refines one picture to its end, or until it is stale.
    fn paint(&mut self, params: &Params, stale: &CancellationToken) -> Result<(), TaskFailure> {
        self.pictures += 1;
        let (view, colours) = (params.view(), params.palette.colours());
        let mut picture = Picture::new(self.size);
        self.state.push([
            Update::put(PICTURE, self.pictures),
            Update::put(PASS, 0),
            Update::put(PROGRESS, 0.0),
        ]);
        let mut done = 0;
        for pass in 0..BLOCKS.len() {
            let meter = Mutex::new((done, Instant::now()));
            let state = &self.state;
            let of = self.size.pixels() as f64;
            let work = picture.pass(&view, pass, |row| {
                let mut meter = meter.lock();
                meter.0 += row.pixels;
                if meter.1.elapsed() >= PROGRESS_EVERY {
                    meter.1 = Instant::now();
                    state.set(PROGRESS, meter.0 as f64 / of);
                }
                !stale.is_cancelled()
            });
            let Some(work) = work else {
                return Ok(());
            };
            done += work.pixels;
            self.total.pixels += work.pixels;
            self.total.iterations += work.iterations;
            let last = pass + 1 == BLOCKS.len();
            self.state.push([
                Update::put(PASS, wire(pass as u64 + 1)),
                Update::put(PROGRESS, done as f64 / of),
                Update::put(PIXELS, wire(self.total.pixels)),
                Update::put(ITERATIONS, wire(self.total.iterations)),
            ]);
            let png = image::encode(self.size, &picture.preview(pass), &colours)
                .map_err(|error| TaskFailure::new("picture.png", error.to_string()).permanent())?;
            self.previews += 1;
            let preview = Update::put(PREVIEW, blob("image/png", png));
            // In one batch: whoever sees which picture is complete sees the whole of it. No other
            // batch has this key, for it would wait for the preview.
            let complete = last.then(|| Update::put(COMPLETE, self.pictures));
            self.state.push([preview].into_iter().chain(complete));
        }
        Ok(())
    }

    fn told(&self, params: Params) -> Painted {
        Painted {
            params,
            pictures: self.pictures,
            previews: self.previews,
            pixels: wire(self.total.pixels),
            iterations: wire(self.total.iterations),
        }
    }
}

fn wire(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
