//! A task's timeline as text: what it is, what happened, a chart of its attempts.

use std::time::SystemTime;

use console::{Style, Term, truncate_str};
use prost_types::Timestamp;
use uuid::Uuid;

use super::{
    super::show,
    chart::{self, Bar},
    progress::Progress,
    timeline::{self, Clock, Event, Tone, exact, micros},
};
use crate::{
    client::short_name,
    domain::{
        Uid,
        trace::{SpanRef, TaskSpan},
    },
    proto::v1::Task,
};

/// Columns where there is no terminal.
const COLUMNS: usize = 100;

/// What it is written on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    /// Longer lines are cut; none: they are not.
    width: Option<usize>,
    colours: bool,
}

impl Screen {
    /// Standard output.
    pub(super) fn here() -> Self {
        let term = Term::stdout();
        Self {
            width: term.is_term().then(|| usize::from(term.size().1)),
            colours: console::colors_enabled(),
        }
    }

    /// `first`: when the first task of the trace was submitted.
    pub(super) fn task(
        self,
        task: &Task,
        progress: Option<&Progress>,
        first: Option<(i64, i32)>,
        now: SystemTime,
    ) -> String {
        let clock = Clock::of(task, micros(&Timestamp::from(now)));
        let mut lines = head(task, first);
        lines.push(String::new());
        lines.extend(self.timeline(&timeline::events(task, progress, clock)));
        let bars = chart::bars(task, clock, self.width.unwrap_or(COLUMNS));
        if !bars.is_empty() {
            lines.push(String::new());
            lines.extend(self.chart(&bars));
        }
        let cut = |line: &String| match self.width {
            Some(width) => truncate_str(line, width, "…").into_owned(),
            None => line.clone(),
        };
        let lines: Vec<_> = lines.iter().map(cut).collect();
        lines.join("\n")
    }

    fn timeline(self, events: &[Event]) -> Vec<String> {
        let cells = |event: &Event| {
            let at = event.at.map(|at| match at {
                0 => "+0".to_owned(),
                // Clocks are put: what seems to be before the submission is shown as it is told.
                ..0 => format!("-{}", exact(-at)),
                _ => format!("+{}", exact(at)),
            });
            let at = at.unwrap_or_else(|| "?".to_owned());
            let took = event.took.map_or_else(String::new, exact);
            let what = self.paint(event.tone, &event.what);
            (at, took, what)
        };
        let mut rows = vec![("AT".to_owned(), "FOR".to_owned(), "WHAT".to_owned())];
        rows.extend(events.iter().map(cells));
        let widths = |(at, took, _): &(String, String, String)| (at.len(), took.len());
        let (at_width, took_width) = rows
            .iter()
            .map(widths)
            .fold((0, 0), |most, one| (most.0.max(one.0), most.1.max(one.1)));
        rows.iter()
            .map(|(at, took, what)| format!("{at:>at_width$}  {took:>took_width$}  {what}"))
            .collect()
    }

    fn chart(self, bars: &[Bar]) -> Vec<String> {
        let longest = bars.iter().map(|bar| bar.name.len()).max();
        let names = longest.unwrap_or_default();
        let drawn = bars.iter().map(|bar| bar.free + bar.wait + bar.run).max();
        let width = drawn.unwrap_or_default();
        let line = |bar: &Bar| {
            let rest = width - (bar.free + bar.wait + bar.run);
            format!(
                "{:<names$}  {}{}{}{}  {}",
                bar.name,
                " ".repeat(bar.free),
                self.paint(Tone::Quiet, &"·".repeat(bar.wait)),
                self.paint(bar.tone, &"█".repeat(bar.run)),
                " ".repeat(rest),
                bar.took
            )
        };
        bars.iter().map(line).collect()
    }

    fn paint(self, tone: Tone, text: &str) -> String {
        let style = Style::new().force_styling(self.colours);
        let style = match tone {
            _ if text.is_empty() => return String::new(),
            Tone::Plain => return text.to_owned(),
            Tone::Quiet => style.dim(),
            Tone::Good => style.green(),
            Tone::Bad => style.red(),
            Tone::Warning => style.yellow(),
            Tone::Active => style.cyan(),
        };
        style.apply_to(text).to_string()
    }
}

fn head(task: &Task, first: Option<(i64, i32)>) -> Vec<String> {
    let mut lines = vec![
        ("task", short_name(&task.name).to_owned()),
        ("type", format!("{} on queue {}", task.r#type, task.queue)),
        ("status", show::status_phrase(task)),
    ];
    let context = task.trace_context.as_ref();
    match context.and_then(|context| SpanRef::parse(&context.traceparent)) {
        Some(span) => {
            let recorded = if span.is_sampled() {
                ""
            } else {
                ", not sampled"
            };
            lines.push(("trace", format!("{:032x}{recorded}", span.trace_id)));
            let uid = Uuid::parse_str(&task.uid).ok();
            let own = uid.map(|uid| TaskSpan::Create.id(Uid(uid.as_u128())));
            let whose = if own == Some(span.span_id) {
                "the server's own, no trace came with the task"
            } else {
                "its submitter's"
            };
            lines.push(("created by", format!("span {:016x}, {whose}", span.span_id)));
        }
        None => lines.push(("trace", "none came with the task".to_owned())),
    }
    if !task.retry_of.is_empty() {
        lines.push(("repeats", short_name(&task.retry_of).to_owned()));
    }
    if let Some(created) = &task.create_time {
        let first = first.map(|(seconds, nanos)| micros(&Timestamp { seconds, nanos }));
        let later = micros(created) - first.unwrap_or_else(|| micros(created));
        let later = match later {
            ..=0 => String::new(),
            later => format!(", +{} after the first", exact(later)),
        };
        lines.push(("submitted", format!("{created}{later}")));
    }
    let line = |(name, value): (&str, String)| format!("{name:<11} {}", show::plain(&value));
    lines.into_iter().map(line).collect()
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
