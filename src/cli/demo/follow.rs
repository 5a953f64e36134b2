//! Follows the tasks and the shared state through watches until every task has ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    Error,
    board::{self, Board},
    digest::STATE,
    flaky,
    kill::{Killed, Killer},
    screen::Screen,
    stage::Stage,
    worker::QUEUE,
};
use crate::{
    client::{Client, StateWatch, TaskWatch},
    proto::v1::{Task, TaskFilter},
};

/// How often the screen is drawn and the processes are looked after.
const TICK: Duration = Duration::from_millis(100);
/// So long nothing at all may change.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// What is followed.
pub(super) struct Follower<'a> {
    client: &'a Client,
    stage: &'a mut Stage,
    screen: Screen,
    killer: Killer,
    tasks: TaskWatch,
    state: StateWatch,
    state_name: String,
    expected: usize,
    /// Failed attempts that were said.
    said: BTreeSet<(String, i32)>,
    board: Board,
    changed: Instant,
}

/// How it all ended.
pub(super) struct Ended {
    pub(super) tasks: BTreeMap<String, Task>,
    pub(super) killed: Option<Killed>,
}

impl<'a> Follower<'a> {
    /// `expected` tasks will be submitted to the demo's queue.
    pub(super) fn new(
        client: &'a Client,
        stage: &'a mut Stage,
        screen: Screen,
        killer: Killer,
        expected: usize,
    ) -> Self {
        let filter = TaskFilter {
            queues: vec![QUEUE.to_owned()],
            ..TaskFilter::default()
        };
        Self {
            client,
            stage,
            screen,
            killer,
            tasks: client.watch_tasks(filter).start(),
            state: client.watch_state([STATE]).start(),
            state_name: client.state_name(STATE),
            expected,
            said: BTreeSet::new(),
            board: Board::default(),
            changed: Instant::now(),
        }
    }

    /// Until all tasks have ended, the killed worker's included.
    pub(super) async fn until_ended(mut self) -> Result<Ended, Error> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.board.ended < self.expected {
            tokio::select! {
                event = self.tasks.next() => { event.transpose()?; }
                event = self.state.next() => { event.transpose()?; }
                _ = tick.tick() => self.look_after()?,
            }
            self.update()?;
            let tasks = self.tasks.view();
            if self.killer.try_kill(self.stage, self.client, tasks).await? {
                self.say_killed()?;
            }
        }
        if self.killer.kill_idle(self.stage).await? {
            self.say_killed()?;
        }
        self.catch_up(&mut tick).await?;
        self.screen.finish(&self.board)?;
        Ok(Ended {
            tasks: self.tasks.view().clone(),
            killed: self.killer.killed,
        })
    }

    /// The state's watch is a stream of its own: its last news may come after the tasks' last.
    async fn catch_up(&mut self, tick: &mut tokio::time::Interval) -> Result<(), Error> {
        let (_, position) = self.client.get_state(STATE, &["slices_done"]).await?;
        let reached = self.tasks.revision().max(Some(position.revision));
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.state.revision() < reached && Instant::now() < deadline {
            tokio::select! {
                event = self.state.next() => { event.transpose()?; }
                _ = tick.tick() => {}
            }
        }
        self.update()
    }

    fn update(&mut self) -> Result<(), Error> {
        let board = Board::of(self.tasks.view(), self.state.view(), &self.state_name);
        if board == self.board {
            return Ok(());
        }
        self.board = board;
        self.changed = Instant::now();
        for failed in board::failed_attempts(self.tasks.view()) {
            if self.said.insert((failed.task.clone(), failed.attempt)) {
                let what = if failed.lost { "was lost" } else { "failed" };
                self.screen.say(&format!(
                    "{} attempt {} on {} {what}: {}",
                    failed.task, failed.attempt, failed.worker, failed.message
                ))?;
            }
        }
        Ok(())
    }

    fn look_after(&mut self) -> Result<(), Error> {
        let expected = self.killer.expected(self.stage).map(str::to_owned);
        self.stage.all_run(expected.as_deref())?;
        self.screen.draw(&self.board)?;
        if self.changed.elapsed() > STALLED_AFTER {
            return Err(Error::TimedOut {
                what: format!("any progress of {}", self.waiting_for()),
                limit: STALLED_AFTER,
                logs: self.stage.tails(),
            });
        }
        Ok(())
    }

    fn waiting_for(&self) -> String {
        let left = self.expected.saturating_sub(self.board.ended);
        match left {
            1 if !board::is_terminal(self.board.flaky.status) => format!("the task {}", flaky::ID),
            left => format!("{left} tasks"),
        }
    }

    fn say_killed(&mut self) -> Result<(), Error> {
        let Some(killed) = &self.killer.killed else {
            return Ok(());
        };
        self.screen.killed(&killed.worker);
        self.screen.say(&killed.to_string())
    }
}
