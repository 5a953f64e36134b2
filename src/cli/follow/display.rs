//! How followed tasks look: a bar for each on a terminal, a line for each change elsewhere.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::show;
use crate::{
    client::{Value, short_name},
    proto::v1::{Task, task::Status},
};

/// The key whose number from 0 to 1 moves the bar.
const PROGRESS: &str = "progress";
/// Steps of a bar.
const STEPS: f64 = 1_000.0;
/// A longer value is cut.
const VALUE_CHARS: usize = 40;

/// Where it goes.
pub(in super::super) enum Display {
    /// A terminal.
    Bars {
        area: MultiProgress,
        bars: BTreeMap<String, Bar>,
    },
    /// Anything else.
    Lines,
}

pub(in super::super) struct Bar {
    bar: ProgressBar,
    status: String,
    /// What the state says beside its progress.
    keys: BTreeMap<String, String>,
    has_progress: bool,
}

impl Display {
    /// On standard error.
    pub(in super::super) fn progress() -> Self {
        if console::Term::stderr().is_term() {
            Self::Bars {
                area: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
                bars: BTreeMap::new(),
            }
        } else {
            Self::Lines
        }
    }

    /// A task is new or has changed.
    pub(super) fn task(&mut self, task: &Task) {
        let id = short_name(&task.name);
        let phrase = phrase(task);
        match self {
            Self::Lines => eprintln!("{id}: {phrase}"),
            Self::Bars { area, bars } => {
                let bar = bars
                    .entry(task.name.clone())
                    .or_insert_with(|| Bar::new(area, id));
                bar.status = show::style(task.status()).apply_to(phrase).to_string();
                bar.draw();
                if show::has_ended(task) {
                    bar.bar.abandon();
                }
            }
        }
    }

    /// Keys of a state have changed that these tasks report to.
    pub(super) fn state<'a>(
        &mut self,
        state: &str,
        tasks: impl Iterator<Item = &'a String>,
        changes: &[(String, Value)],
    ) {
        match self {
            Self::Lines => {
                let changes: Vec<String> = changes
                    .iter()
                    .map(|(key, value)| format!("{key}={}", cut(value)))
                    .collect();
                eprintln!("{state}: {}", changes.join(" "));
            }
            Self::Bars { bars, .. } => {
                for task in tasks {
                    if let Some(bar) = bars.get_mut(task) {
                        bar.take(changes);
                        bar.draw();
                    }
                }
            }
        }
    }

    /// Something to know.
    pub(super) fn note(&mut self, text: &str) {
        match self {
            Self::Bars { area, .. } => {
                // A terminal that cannot be written to has no reader.
                let _ = area.println(text);
            }
            Self::Lines => eprintln!("{text}"),
        }
    }

    /// Leaves the terminal in order.
    pub(super) fn end(&mut self) {
        if let Self::Bars { bars, .. } = self {
            for bar in bars.values() {
                bar.bar.abandon();
            }
        }
    }
}

impl Bar {
    fn new(area: &MultiProgress, id: &str) -> Self {
        let bar = area.add(ProgressBar::new(STEPS as u64));
        bar.set_style(style("{spinner} {prefix} {wide_msg}"));
        bar.set_prefix(id.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            bar,
            status: String::new(),
            keys: BTreeMap::new(),
            has_progress: false,
        }
    }

    fn take(&mut self, changes: &[(String, Value)]) {
        for (key, value) in changes {
            match show::fraction(value) {
                Some(fraction) if key == PROGRESS => {
                    if !self.has_progress {
                        self.has_progress = true;
                        self.bar.set_style(style(
                            "{spinner} {prefix} {bar:24} {percent:>3}% {wide_msg}",
                        ));
                    }
                    // Not negative, and at most STEPS.
                    self.bar.set_position((fraction * STEPS) as u64);
                }
                _ => {
                    self.keys.insert(key.clone(), cut(value));
                }
            }
        }
    }

    fn draw(&self) {
        let mut message = self.status.clone();
        for (key, value) in &self.keys {
            message.push_str(&format!("  {key}={value}"));
        }
        self.bar.set_message(message);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well formed")
}

/// The status with what failed, of an earlier attempt only where another follows it.
fn phrase(task: &Task) -> String {
    let mut phrase = show::status_phrase(task);
    let Some(failure) = &task.failure else {
        return phrase;
    };
    let text = show::failure(failure);
    let text = first_line(&text);
    if show::has_ended(task) {
        phrase.push_str(&format!(" ({text})"));
    } else if task.status() != Status::Running || failure.attempt < task.attempt {
        phrase.push_str(&format!(" (after: {text})"));
    }
    phrase
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A value in one short piece.
fn cut(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_as_the_attempt_s_that_had_it() {
        let failure = crate::proto::v1::Failure {
            r#type: "timeout".to_owned(),
            message: "too long".to_owned(),
            attempt: 1,
            ..Default::default()
        };
        let mut task = Task {
            worker_id: "w".to_owned(),
            attempt: 2,
            failure: Some(failure),
            ..Task::default()
        };
        task.set_status(Status::Running);
        assert_eq!(
            phrase(&task),
            "running on w, attempt 2 (after: timeout: too long)"
        );
        // Its outcome is told, and the task still waits for its state: it has not ended yet.
        task.attempt = 1;
        assert_eq!(phrase(&task), "running on w, attempt 1");
        task.set_status(Status::Queued);
        assert_eq!(
            phrase(&task),
            "queued, attempt 1 (after: timeout: too long)"
        );
        task.set_status(Status::Failed);
        assert_eq!(phrase(&task), "failed, attempt 1 (timeout: too long)");
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(cut(&7.into()), "7");
        let long = cut(&"ä".repeat(100).as_str().into());
        assert_eq!(long.chars().count(), VALUE_CHARS + 1);
        assert!(long.ends_with('…'));
    }
}
