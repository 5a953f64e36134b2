//! What the demo says at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    path::Path,
    time::Duration,
};

use comfy_table::{ContentArrangement, Table, presets};
use console::Term;
use indicatif::{HumanBytes, HumanCount};
use prost_types::Timestamp;

use super::{
    board::{FailedAttempt, Totals, failed_attempts},
    files::Listing,
    follow::Ended,
    kill::Killed,
    slice::{self, SliceOutput},
    verify::Verdict,
};
use crate::client::short_name;

/// Lists longer than this are cut, and say so.
const MOST_LINES: usize = 20;
/// Below this, lines that the terminal breaks are easier to read than columns.
const NARROWEST: u16 = 70;

impl fmt::Display for Killed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker, pid, held } = self;
        write!(formatter, "killed {worker} (pid {pid}) with SIGKILL, ")?;
        match held.as_slice() {
            [] => write!(formatter, "with nothing in hand"),
            held => write!(formatter, "with {} in hand", held.join(", ")),
        }
    }
}

/// What was found at the start.
pub(super) fn found(root: &Path, listing: &Listing, slices: usize) -> String {
    let mut text = format!(
        "{} files, {} under {}, cut into {slices} slices",
        HumanCount(listing.files.len() as u64),
        HumanBytes(listing.bytes()),
        root.display(),
    );
    let mut skipped = Vec::new();
    for (count, what) in [
        (listing.symlinks, "symbolic links"),
        (listing.special, "sockets, pipes or devices"),
    ] {
        if count > 0 {
            skipped.push(format!("{} {what}", HumanCount(count)));
        }
    }
    if !skipped.is_empty() {
        let _ = write!(text, "\nskipped {}", skipped.join(" and "));
    }
    list(
        &mut text,
        "could not be read for the list",
        &listing.unreadable,
    );
    text
}

/// How fast the slices were digested that no kill held up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    files: i64,
    bytes: i64,
    seconds: f64,
}

impl Pace {
    /// By the server's clock, from the first slice's creation on. None if all slices were lost once.
    pub(super) fn of(ended: &Ended, outputs: &[SliceOutput]) -> Option<Self> {
        let mut pace = Self {
            files: 0,
            bytes: 0,
            seconds: 0.0,
        };
        let tasks = ended.tasks.values();
        let tasks: BTreeMap<_, _> = tasks.map(|task| (short_name(&task.name), task)).collect();
        let (mut first, mut last) = (f64::INFINITY, f64::NEG_INFINITY);
        for (index, output) in outputs.iter().enumerate() {
            let Some(task) = tasks.get(slice::id(index).as_str()) else {
                continue;
            };
            let (Some(created), Some(end)) = (&task.create_time, &task.end_time) else {
                continue;
            };
            if task.attempt > 1 {
                continue;
            }
            let (files, bytes) = output.counts();
            pace.files += files;
            pace.bytes += bytes;
            first = first.min(seconds(created));
            last = last.max(seconds(end));
        }
        pace.seconds = last - first;
        (pace.seconds > 0.0).then_some(pace)
    }
}

fn seconds(time: &Timestamp) -> f64 {
    time.seconds as f64 + f64::from(time.nanos) / 1e9
}

/// The figures, with what became of the list and who failed.
pub(super) fn figures(
    verdict: &Verdict<'_>,
    counted: Totals,
    ended: &Ended,
    elapsed: Duration,
    pace: Option<Pace>,
) -> String {
    let mut text = format!(
        "\n{} files, {} digested in {:.1} s\n",
        HumanCount(counted.files),
        HumanBytes(counted.bytes),
        elapsed.as_secs_f64(),
    );
    if let Some(pace) = pace {
        let _ = writeln!(
            text,
            "what no kill held up took {:.1} s: {:.0} files/s, {:.1} MB/s",
            pace.seconds,
            pace.files as f64 / pace.seconds,
            pace.bytes as f64 / pace.seconds / 1e6,
        );
    }
    let mut table = table();
    table.set_header(["", "shared state", "list of files", ""]);
    for (name, counted, expected) in [
        ("files_done", counted.files, verdict.expected.files),
        ("bytes_done", counted.bytes, verdict.expected.bytes),
        ("slices_done", counted.slices, verdict.expected.slices),
    ] {
        let sign = if counted == expected { "same" } else { "OFF" };
        table.add_row([
            name,
            &HumanCount(counted).to_string(),
            &HumanCount(expected).to_string(),
            sign,
        ]);
    }
    push_table(&mut text, &table);
    list(
        &mut text,
        "changed since they were listed",
        &verdict.changed,
    );
    list(
        &mut text,
        "vanished since they were listed",
        &verdict.vanished,
    );
    list(&mut text, "could not be read", &verdict.unreadable);
    let failed = failed_attempts(&ended.tasks);
    if let Some(killed) = &ended.killed {
        let _ = writeln!(text, "\n{killed}");
        let _ = writeln!(text, "{}", reruns(killed, &failed, ended));
    }
    failures(&mut text, &failed);
    for loss in unexpected_losses(ended) {
        let _ = writeln!(text, "{loss}");
    }
    text
}

/// What became of the killed worker's slices: one that ended under another worker was run again,
/// whether its lease had been accepted, and so cost an attempt, or not.
fn reruns(killed: &Killed, failed: &[FailedAttempt], ended: &Ended) -> String {
    let lost = failed
        .iter()
        .filter(|failed| failed.lost && failed.worker == killed.worker)
        .map(|failed| failed.task.as_str());
    let held: BTreeSet<&str> = killed.held.iter().map(String::as_str).chain(lost).collect();
    let workers: BTreeMap<&str, &str> = ended
        .tasks
        .values()
        .map(|task| (short_name(&task.name), task.worker_id.as_str()))
        .collect();
    let (mut again, mut told) = (Vec::new(), Vec::new());
    for slice in held {
        match workers.get(slice) {
            Some(worker) if *worker == killed.worker => told.push(slice),
            worker => again.push(format!("{slice} (by {})", worker.unwrap_or(&"nobody"))),
        }
    }
    let mut text = match again.as_slice() {
        [] => "run again: nothing".to_owned(),
        again => format!("run again: {}", again.join(", ")),
    };
    if !told.is_empty() {
        let _ = write!(text, "; its last act was to finish {}", told.join(", "));
    }
    text
}

/// Attempts that were lost though their worker lived.
pub(super) fn unexpected_losses(ended: &Ended) -> Vec<String> {
    let killed = ended.killed.as_ref().map(|killed| killed.worker.as_str());
    failed_attempts(&ended.tasks)
        .iter()
        .filter(|failed| failed.lost && Some(failed.worker.as_str()) != killed)
        .map(|failed| {
            format!(
                "unexpected: attempt {} of {} was lost on {}, which was not killed",
                failed.attempt, failed.task, failed.worker
            )
        })
        .collect()
}

fn failures(text: &mut String, failed: &[FailedAttempt]) {
    if failed.is_empty() {
        return;
    }
    let mut table = table();
    table.set_header(["task", "attempt", "worker", "type", "failure"]);
    for one in failed.iter().take(MOST_LINES) {
        table.add_row([
            &one.task,
            &one.attempt.to_string(),
            &one.worker,
            &one.failure_type,
            &one.message,
        ]);
    }
    let _ = writeln!(text, "\nfailed attempts, each followed by another:");
    push_table(text, &table);
    if failed.len() > MOST_LINES {
        let _ = writeln!(text, "  and {} more", failed.len() - MOST_LINES);
    }
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let terminal = Term::stdout();
    if terminal.is_term() {
        let (_, width) = terminal.size();
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width.max(NARROWEST));
    }
    table
}

fn push_table(text: &mut String, table: &Table) {
    for line in table.lines() {
        let _ = writeln!(text, " {}", line.trim_end());
    }
}

fn list(text: &mut String, what: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    let _ = write!(text, "\n{} {what}:", items.len());
    for item in items.iter().take(MOST_LINES) {
        let _ = write!(text, "\n  {item}");
    }
    if items.len() > MOST_LINES {
        let _ = write!(text, "\n  and {} more", items.len() - MOST_LINES);
    }
    text.push('\n');
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,@%:=".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Attempt, Failure, Task, failure::Category};

    #[test]
    fn a_path_is_quoted_where_a_shell_would_split_it() {
        assert_eq!(quoted(Path::new("/tmp/a-b.txt")), "/tmp/a-b.txt");
        assert_eq!(quoted(Path::new("/tmp/it's a")), "'/tmp/it'\\''s a'");
    }

    #[test]
    fn long_lists_are_cut_and_say_so() {
        let mut text = String::new();
        let items: Vec<_> = (0..30).map(|index| index.to_string()).collect();
        list(&mut text, "things", &items);
        assert!(text.contains("30 things:"));
        assert!(text.ends_with("and 10 more\n"), "{text}");
    }

    fn ended<const N: usize>(tasks: [(&str, &str); N], killed: Option<Killed>) -> Ended {
        let task = |(id, worker): (&str, &str)| Task {
            name: format!("namespaces/default/tasks/{id}"),
            worker_id: worker.to_owned(),
            ..Task::default()
        };
        let tasks = tasks.map(|one| (one.0.to_owned(), task(one)));
        Ended {
            tasks: tasks.into(),
            killed,
        }
    }

    fn killed() -> Killed {
        Killed {
            worker: "a".to_owned(),
            pid: 7,
            held: ["slice-1", "slice-2", "slice-3"].map(str::to_owned).into(),
        }
    }

    #[test]
    fn the_killed_workers_slices_are_accounted_for_by_who_ended_them() {
        let failed = [FailedAttempt {
            task: "slice-1".to_owned(),
            attempt: 1,
            worker: "a".to_owned(),
            lost: true,
            failure_type: String::new(),
            message: String::new(),
        }];
        // The lease of the third was never accepted: it cost no attempt.
        let ended = ended([("slice-1", "b"), ("slice-2", "a"), ("slice-3", "b")], None);
        assert_eq!(
            reruns(&killed(), &failed, &ended),
            "run again: slice-1 (by b), slice-3 (by b); its last act was to finish slice-2"
        );
    }

    #[test]
    fn a_loss_on_a_worker_that_lives_is_unexpected() {
        let mut ended = ended([("slice-1", "b"), ("slice-2", "b")], Some(killed()));
        for (id, worker) in [("slice-1", "a"), ("slice-2", "b")] {
            let attempt = Attempt {
                number: 1,
                worker_id: worker.to_owned(),
                failure: Some(Failure {
                    category: Category::LeaseLost.into(),
                    ..Failure::default()
                }),
                ..Attempt::default()
            };
            ended.tasks.get_mut(id).unwrap().attempts.push(attempt);
        }
        assert_eq!(
            unexpected_losses(&ended),
            ["unexpected: attempt 1 of slice-2 was lost on b, which was not killed"]
        );
    }
}
