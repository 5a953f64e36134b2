//! Shows the board: bars on a terminal, else plain lines, one a second at most.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{
    HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle,
};

use super::{
    Error,
    board::{Board, FlakyLine, Totals, WorkerLine},
};
use crate::proto::v1::task::Status;

/// The least time between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(1);

/// Standard output.
#[derive(Debug)]
pub(super) struct Screen {
    plan: Totals,
    killed: Option<String>,
    bars: Option<Bars>,
    shown: Option<(Instant, Board)>,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    files: ProgressBar,
    bytes: ProgressBar,
    workers: BTreeMap<String, ProgressBar>,
    flaky: ProgressBar,
}

/// Prints a line to standard output; a closed pipe is an error, not a panic.
pub(super) fn print(line: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    written.map_err(failed)
}

fn failed(source: io::Error) -> Error {
    Error::io("write to standard output", source)
}

impl Screen {
    pub(super) fn new(plan: Totals, workers: &[String]) -> Self {
        let bars = io::stdout().is_terminal().then(|| Bars::new(plan, workers));
        Self {
            plan,
            killed: None,
            bars,
            shown: None,
        }
    }

    /// Prints a line that stays.
    pub(super) fn say(&self, line: &str) -> Result<(), Error> {
        match &self.bars {
            Some(bars) => bars.all.println(line).map_err(failed),
            None => print(line),
        }
    }

    /// From here on the worker's line says so.
    pub(super) fn killed(&mut self, worker: &str) {
        self.killed = Some(worker.to_owned());
    }

    pub(super) fn draw(&mut self, board: &Board) -> Result<(), Error> {
        if let Some(bars) = &self.bars {
            bars.draw(board, self.killed.as_deref());
            return Ok(());
        }
        let due = match &self.shown {
            Some((when, shown)) => when.elapsed() >= PLAIN_EVERY && shown != board,
            None => true,
        };
        if due {
            self.draw_plain(board)?;
        }
        Ok(())
    }

    /// The last picture, which stays.
    pub(super) fn finish(&mut self, board: &Board) -> Result<(), Error> {
        match &self.bars {
            Some(bars) => {
                bars.draw(board, self.killed.as_deref());
                let lines = bars.workers.values();
                for bar in lines.chain([&bars.files, &bars.bytes, &bars.flaky]) {
                    bar.abandon();
                }
                Ok(())
            }
            None => self.draw_plain(board),
        }
    }

    fn draw_plain(&mut self, board: &Board) -> Result<(), Error> {
        let line = plain(self.plan, board, self.killed.as_deref());
        self.shown = Some((Instant::now(), board.clone()));
        print(&line)
    }
}

impl Bars {
    fn new(plan: Totals, workers: &[String]) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let bar = |prefix: &str, length, template: &str| {
            // The templates are constants: a wrong one would be seen at once.
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(length).with_style(style.progress_chars("━╸ "));
            all.add(bar.with_prefix(prefix.to_owned()))
        };
        let line = "{prefix:>9.bold} {wide_msg}";
        Self {
            files: bar(
                "files",
                plan.files,
                "{prefix:>9.bold} {wide_bar:.cyan} {human_pos}/{human_len}",
            ),
            bytes: bar(
                "bytes",
                plan.bytes,
                "{prefix:>9.bold} {wide_bar:.cyan} {bytes}/{total_bytes}",
            ),
            workers: workers
                .iter()
                .map(|name| (name.clone(), bar(name, 0, line)))
                .collect(),
            flaky: bar("flaky", 0, line),
            all,
        }
    }

    fn draw(&self, board: &Board, killed: Option<&str>) {
        self.files.set_position(board.done.files);
        self.bytes.set_position(board.done.bytes);
        for (name, bar) in &self.workers {
            let line = board.workers.get(name).cloned().unwrap_or_default();
            let text = worker(&line, killed == Some(name));
            bar.set_message(match killed == Some(name) {
                true => console::style(text).red().to_string(),
                false => text,
            });
        }
        let text = flaky(&board.flaky);
        self.flaky.set_message(match board.flaky.status {
            Status::Succeeded => console::style(text).green().to_string(),
            _ if board.flaky.failure.is_some() => console::style(text).yellow().to_string(),
            _ => text,
        });
    }
}

fn plain(plan: Totals, board: &Board, killed: Option<&str>) -> String {
    let done = board.done;
    let mut line = format!(
        "progress: {}/{} files, {}/{}, {}/{} slices",
        HumanCount(done.files),
        HumanCount(plan.files),
        HumanBytes(done.bytes),
        HumanBytes(plan.bytes),
        done.slices,
        plan.slices,
    );
    for (name, one) in &board.workers {
        line.push_str(&format!("; {name}: {}", worker(one, killed == Some(name))));
    }
    line.push_str(&format!("; flaky: {}", flaky(&board.flaky)));
    line
}

fn worker(line: &WorkerLine, killed: bool) -> String {
    let mut text = format!("{} slices done", line.done);
    if line.running > 0 {
        text.push_str(&format!(", {} in hand", line.running));
        if line.of > 0 {
            text.push_str(&format!(" ({}/{} files)", line.files, line.of));
        }
    }
    match (killed, line.running) {
        (false, _) => text,
        (true, 0) => text + ", killed",
        (true, _) => text + ", killed: its leases run out",
    }
}

fn flaky(line: &FlakyLine) -> String {
    let attempt = line.attempt;
    let failure = line.failure.as_deref().unwrap_or_default();
    match line.status {
        Status::Succeeded => format!("succeeded at attempt {attempt}"),
        Status::Failed => format!("failed for good at attempt {attempt}: {failure}"),
        Status::Running if failure.is_empty() => format!("attempt {attempt}"),
        Status::Running => format!("attempt {attempt}, after: {failure}"),
        _ if failure.is_empty() => "waits".to_owned(),
        _ => format!("attempt {attempt} failed, will be tried again: {failure}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_has_all_there_is_to_see() {
        let plan = Totals {
            files: 2000,
            bytes: 4096,
            slices: 8,
        };
        let mut board = Board {
            done: Totals {
                files: 1200,
                bytes: 1024,
                slices: 4,
            },
            ..Board::default()
        };
        let running = WorkerLine {
            done: 4,
            running: 1,
            files: 3,
            of: 7,
        };
        board.workers.insert("a".to_owned(), running);
        board.flaky = FlakyLine {
            status: Status::Scheduled,
            attempt: 1,
            failure: Some("no".to_owned()),
        };
        assert_eq!(
            plain(plan, &board, Some("a")),
            "progress: 1,200/2,000 files, 1.00 KiB/4.00 KiB, 4/8 slices; \
             a: 4 slices done, 1 in hand (3/7 files), killed: its leases run out; \
             flaky: attempt 1 failed, will be tried again: no"
        );
    }
}
