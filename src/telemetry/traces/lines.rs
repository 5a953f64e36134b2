//! One log line for each failed attempt, up to a rate that a person could still read.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{
    domain::{
        NamespaceId,
        task::{Attempt, Failure, Task},
        trace::SpanRef,
    },
    telemetry::log::FAILURES,
};

/// Lines of one second; a broken dependency fails thousands of tasks in one.
const MAX_LINES: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);
/// A log line is no place for a page of text.
const MAX_MESSAGE_BYTES: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct FailureLines {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    begun: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Window {
    /// Whether a line fits, and how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let fresh = self.begun.is_none_or(|begun| now - begun >= WINDOW);
        if fresh {
            self.begun = Some(now);
            self.lines = 0;
        }
        if self.lines >= MAX_LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl FailureLines {
    pub(super) fn failed(
        &self,
        namespace: &NamespaceId,
        task: &Task,
        attempt: Option<&Attempt>,
        failure: &Failure,
        span: Option<SpanRef>,
    ) {
        let Some(left_out) = self.window.lock().admit(Instant::now()) else {
            return;
        };
        if left_out > 0 {
            tracing::warn!(lines = left_out, "failures were left out of this log");
        }
        let trace_id = span.map(|span| format!("{:032x}", span.trace_id));
        tracing::warn!(
            target: FAILURES,
            namespace = %namespace,
            task.id = %task.id,
            task.r#type = %task.r#type,
            task.attempt = failure.attempt,
            task.status = %task.status(),
            worker.id = attempt.map_or("", |attempt| attempt.worker_id.as_str()),
            error.r#type = %failure.r#type,
            error.message = %cut(&failure.message),
            trace_id = trace_id.as_deref(),
            "attempt failed"
        );
    }
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_is_cut_and_the_next_line_says_by_how_many() {
        let mut window = Window::default();
        let now = Instant::now();
        for _ in 0..MAX_LINES {
            assert_eq!(window.admit(now), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(window.admit(now + WINDOW / 2), None);
        }
        assert_eq!(window.admit(now + WINDOW), Some(7));
        assert_eq!(window.admit(now + WINDOW), Some(0));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "é".repeat(MAX_MESSAGE_BYTES);
        assert_eq!(cut(&long).len(), MAX_MESSAGE_BYTES);
        assert_eq!(cut(&format!("x{long}")).len(), MAX_MESSAGE_BYTES - 1);
        assert_eq!(cut("short"), "short");
    }
}
