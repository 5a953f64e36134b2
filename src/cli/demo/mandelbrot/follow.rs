//! Follows the task and its state until it has ended, and goes on with the tour.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::{Error, board::is_terminal, screen::print, stage::Stage, worker};
use super::{
    STATE, TASK,
    board::Board,
    set,
    tour::{Step, Tour},
};
use crate::{
    client::{Client, StateWatch, TaskWatch},
    proto::v1::{Task, TaskFilter},
};

/// How often the processes are looked after.
const TICK: Duration = Duration::from_millis(100);
/// The least time between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(1);
/// So long after its time the task may go without any news.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// Steps of the bar.
const FULL: u64 = 1_000;

pub(super) struct Follower<'a> {
    client: &'a Client,
    stage: &'a mut Stage,
    tasks: TaskWatch,
    state: StateWatch,
    tour: Tour,
    screen: Screen,
    board: Board,
    time: Duration,
    begun: Instant,
    changed: Instant,
}

impl<'a> Follower<'a> {
    /// The first place of the tour was set at revision `set_at`.
    pub(super) fn new(
        client: &'a Client,
        stage: &'a mut Stage,
        time: Duration,
        set_at: i64,
    ) -> Self {
        let filter = TaskFilter {
            queues: vec![worker::QUEUE.to_owned()],
            ..TaskFilter::default()
        };
        let now = Instant::now();
        Self {
            client,
            stage,
            tasks: client.watch_tasks(filter).start(),
            state: client.watch_state([STATE]).start(),
            tour: Tour::new(time, set_at, now),
            screen: Screen::new(),
            board: Board::default(),
            time,
            begun: now,
            changed: now,
        }
    }

    /// The task as it ended.
    pub(super) async fn until_ended(mut self) -> Result<Task, Error> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.tasks.next() => { event.transpose()?; }
                event = self.state.next() => { event.transpose()?; }
                _ = tick.tick() => self.look_after()?,
            }
            self.update().await?;
            let ended = self
                .tasks
                .view()
                .values()
                .any(|task| is_terminal(task.status()));
            if ended {
                self.screen.finish(&self.board)?;
                // A watch leaves out what caused a failure.
                return Ok(self.client.get_task(TASK).await?);
            }
        }
    }

    async fn update(&mut self) -> Result<(), Error> {
        let board = Board::of(self.state.view(), STATE);
        if board != self.board {
            self.board = board;
            self.changed = Instant::now();
        }
        let Some(revision) = self.state.revision() else {
            return Ok(());
        };
        match self.tour.step(&self.board, revision, Instant::now()) {
            Step::Stay => Ok(()),
            Step::Go(params) => {
                self.tour.set(set(self.client, &params).await?);
                Ok(())
            }
            Step::Leave => self.screen.say("someone steers: the tour ends"),
        }
    }

    fn look_after(&mut self) -> Result<(), Error> {
        self.stage.all_run(None)?;
        self.screen.draw(&self.board)?;
        let over = self.begun.elapsed() > self.time + STALLED_AFTER;
        if over && self.changed.elapsed() > STALLED_AFTER {
            return Err(Error::TimedOut {
                what: "any progress of the picture".to_owned(),
                limit: STALLED_AFTER,
                logs: self.stage.tails(),
            });
        }
        Ok(())
    }
}

/// A bar on a terminal, else plain lines.
struct Screen {
    bar: Option<ProgressBar>,
    shown: Option<(Instant, Board)>,
}

impl Screen {
    fn new() -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(FULL), ProgressDrawTarget::stdout());
            // The template is a constant: a wrong one would be seen at once.
            let style = ProgressStyle::with_template("{wide_bar:.cyan}\n{wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_style(style.progress_chars("━╸ "))
        });
        Self { bar, shown: None }
    }

    /// Prints a line that stays.
    fn say(&self, line: &str) -> Result<(), Error> {
        match &self.bar {
            Some(bar) => {
                bar.println(line);
                Ok(())
            }
            None => print(line),
        }
    }

    fn draw(&mut self, board: &Board) -> Result<(), Error> {
        if let Some(bar) = &self.bar {
            // Between 0 and 1 of a thousand steps.
            bar.set_position((board.progress * FULL as f64) as u64);
            bar.set_message(board.line());
            return Ok(());
        }
        let due = match &self.shown {
            Some((when, shown)) => when.elapsed() >= PLAIN_EVERY && shown != board,
            None => board.picture > 0,
        };
        match due {
            true => self.draw_plain(board),
            false => Ok(()),
        }
    }

    /// The last picture, which stays.
    fn finish(&mut self, board: &Board) -> Result<(), Error> {
        if self.bar.is_some() {
            self.draw(board)?;
            self.bar.iter().for_each(ProgressBar::abandon);
            return Ok(());
        }
        match &self.shown {
            Some((_, shown)) if shown == board => Ok(()),
            _ => self.draw_plain(board),
        }
    }

    fn draw_plain(&mut self, board: &Board) -> Result<(), Error> {
        self.shown = Some((Instant::now(), board.clone()));
        print(&format!("progress: {}", board.line()))
    }
}
