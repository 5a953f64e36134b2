//! The attempts of a task as bars beneath each other, on one scale.

use super::timeline::{Clock, Tone, exact, ready};
use crate::proto::v1::{Attempt, Task, failure::Category, task::Status};

/// A bar is at most so wide, however wide the terminal.
const MOST: usize = 80;
/// Below this there is nothing to see.
const LEAST: usize = 10;
/// Columns that a duration takes behind its bar.
const DURATION: usize = 10;

/// A bar: the wait before the attempt, then the attempt.
#[derive(Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) name: String,
    /// Columns left free, columns of the wait, columns of the run; all within the chart.
    pub(super) free: usize,
    pub(super) wait: usize,
    pub(super) run: usize,
    pub(super) took: String,
    pub(super) tone: Tone,
}

/// The bars of a task's attempts on so many columns; none where there is nothing to draw.
pub(super) fn bars(task: &Task, clock: Clock, columns: usize) -> Vec<Bar> {
    let names = task.attempts.iter().map(|attempt| name(attempt).len());
    let name_width = names.max().unwrap_or_default();
    let width = columns.saturating_sub(name_width + DURATION + 4).min(MOST);
    if width < LEAST || clock.until <= 0 {
        return Vec::new();
    }
    // Not negative, and at most `width`.
    let column = |at: i64| {
        let share = at.clamp(0, clock.until) as f64 / clock.until as f64;
        (share * width as f64).floor() as usize
    };
    let mut waits_from = ready(task, clock);
    let bars = task.attempts.iter().map(|attempt| {
        let start = clock.at(attempt.start_time.as_ref()).unwrap_or_default();
        let end = clock.at(attempt.end_time.as_ref());
        let stop = end.unwrap_or(clock.until);
        // The shortest is still to be seen.
        let from = column(start).min(width - 1);
        let run = column(stop).max(from + 1) - from;
        let free = waits_from.map_or(from, column).min(from);
        waits_from = end;
        Bar {
            name: name(attempt),
            free,
            wait: from - free,
            run,
            took: exact(stop - start),
            tone: tone(task, attempt),
        }
    });
    bars.collect()
}

fn name(attempt: &Attempt) -> String {
    format!("attempt {}", attempt.number)
}

fn tone(task: &Task, attempt: &Attempt) -> Tone {
    match (&attempt.failure, &attempt.end_time) {
        (Some(failure), _) => match failure.category() {
            Category::LeaseLost | Category::Cancelled => Tone::Warning,
            _ => Tone::Bad,
        },
        (None, None) => Tone::Active,
        (None, Some(_)) if task.status() == Status::Succeeded => Tone::Good,
        (None, Some(_)) => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::proto::v1::Failure;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    fn attempt(number: i32, start: i64, end: Option<i64>) -> Attempt {
        Attempt {
            number,
            start_time: at(100 + start),
            end_time: end.and_then(|end| at(100 + end)),
            ..Attempt::default()
        }
    }

    #[test]
    fn bars_share_one_scale_and_the_shortest_is_seen() {
        let mut task = Task {
            create_time: at(100),
            end_time: at(200),
            attempts: vec![
                attempt(1, 10, Some(10)),
                attempt(2, 50, Some(80)),
                attempt(3, 100, Some(100)),
            ],
            ..Task::default()
        };
        task.attempts[0].failure = Some(Failure::default());
        task.set_status(Status::Succeeded);
        let clock = Clock::of(&task, 0);
        let seen = |columns| -> Vec<(usize, usize, usize)> {
            let bars = bars(&task, clock, columns);
            bars.iter()
                .map(|bar| (bar.free, bar.wait, bar.run))
                .collect()
        };
        // 9 for the name and 14 for what stands around it.
        assert_eq!(seen(23 + 20), [(0, 2, 1), (2, 8, 6), (16, 3, 1)]);
        assert!(seen(30).is_empty());
        for columns in 33..200 {
            for (free, wait, run) in seen(columns) {
                assert!(run > 0 && free + wait + run <= (columns - 23).min(MOST));
            }
        }
        let tones: Vec<_> = bars(&task, clock, 80).iter().map(|bar| bar.tone).collect();
        assert_eq!(tones, [Tone::Bad, Tone::Good, Tone::Good]);
    }

    #[test]
    fn a_task_without_attempts_has_no_bars() {
        let task = Task {
            create_time: at(100),
            ..Task::default()
        };
        assert!(bars(&task, Clock::of(&task, 200_000_000), 80).is_empty());
    }
}
