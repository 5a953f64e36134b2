//! What the process says about itself: log lines on standard error.
//!
//! People read a terminal and programs read what is not one, so the form follows from where the
//! lines go: compact and coloured on a terminal, one JSON object per line elsewhere. Commands
//! that talk to a person either way stay with plain lines.

use std::io::{self, IsTerminal};

use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{ParseError, filter_fn},
    fmt::{self, format::JsonFields},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::{export::Exports, flat_json::FlatJson};

/// The target of the lines that tell of failed attempts, which are exported as records of their own
/// that are tied to their spans.
pub(super) const FAILURES: &str = "duite::failures";

/// What is logged where nobody says otherwise.
pub const DEFAULT_FILTER: &str = "info";

/// Libraries that say much and rarely what is of use. They come first, so that a directive for one
/// of them takes the place of the one here.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,fjall=warn,lsm_tree=warn,opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry-otlp=warn";

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Compact, in colour, with the time.
    Terminal,
    /// One JSON object per line, for programs that collect logs.
    Json,
    /// Compact without colour.
    Plain,
}

impl Form {
    /// The form of a process that runs for long: JSON where nobody watches.
    #[must_use]
    pub fn of_service() -> Self {
        if io::stderr().is_terminal() {
            Self::Terminal
        } else {
            Self::Json
        }
    }

    /// The form of a command that a person or a script calls.
    #[must_use]
    pub fn of_command() -> Self {
        if io::stderr().is_terminal() {
            Self::Terminal
        } else {
            Self::Plain
        }
    }
}

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter cannot be understood.
    #[error(
        "`{filter}` is no log filter: {problem}; write a level, such as debug, or targets with levels, such as info,duite::engine=debug"
    )]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Someone else has set up logging in this process.
    #[error("logging is set up already: {0}")]
    Twice(String),
}

/// Checks a filter without using it.
pub fn check(filter: &str) -> Result<(), Error> {
    parse(filter).map(|_| ())
}

/// Sends the log to standard error, for the rest of the process, and what `exports` takes to a
/// collector as well.
pub fn install(filter: &str, form: Form, exports: &Exports) -> Result<(), Error> {
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(form == Form::Terminal && std::env::var_os("NO_COLOR").is_none());
    let lines = match form {
        Form::Terminal | Form::Plain => lines.compact().boxed(),
        Form::Json => lines
            .fmt_fields(JsonFields::new())
            .event_format(FlatJson)
            .boxed(),
    };
    // Spans of libraries, and the exporters' own events above all, must not come back to the
    // exporters.
    let ours = || {
        filter_fn(|metadata| {
            is_ours(metadata.target()) && *metadata.level() <= tracing::Level::INFO
        })
    };
    let spans = exports.tracer().map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            // A failure is told once, as a record of its own.
            .with_error_records_to_exceptions(false)
            .with_error_fields_to_exceptions(false)
            .with_error_events_to_exceptions(false)
            .with_error_events_to_status(true)
            .with_filter(ours())
    });
    let records = exports.logger_provider().map(|provider| {
        OpenTelemetryTracingBridge::new(&provider).with_filter(filter_fn(|metadata| {
            is_ours(metadata.target())
                && metadata.target() != FAILURES
                && *metadata.level() <= tracing::Level::INFO
        }))
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(parse(filter)?))
        .with(spans)
        .with(records)
        .try_init()
        .map_err(|error| Error::Twice(error.to_string()))
}

/// Whether an event is of this crate, or of a program's that is built on it.
fn is_ours(target: &str) -> bool {
    target == "duite" || target.starts_with("duite::")
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    let wrong = |problem: String| Error::Filter {
        filter: filter.to_owned(),
        problem,
    };
    if filter.trim().is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .map_err(|error: ParseError| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_keeps_libraries_quiet_and_a_target_wakes_one() {
        let debug = parse("debug").unwrap().to_string();
        assert!(
            debug.contains("h2=warn") && debug.contains("debug"),
            "{debug}"
        );
        let h2 = parse("debug,h2=trace").unwrap().to_string();
        assert!(h2.contains("h2=trace") && !h2.contains("h2=warn"), "{h2}");
    }

    #[test]
    fn a_wrong_filter_is_refused_with_its_text() {
        for filter in ["", "duite=loud", "a=b=c"] {
            let error = check(filter).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{filter}` is no log filter")),
                "{error}"
            );
        }
    }
}
