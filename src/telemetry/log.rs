//! What the process says about itself: log lines on standard error.
//!
//! People read a terminal and programs read what is not one, so the form follows from where the
//! lines go: compact and coloured on a terminal, one JSON object per line elsewhere. Commands
//! that talk to a person either way stay with plain lines.

use std::io::{self, IsTerminal};

use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{ParseError, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use super::{
    json::JsonLines,
    otlp::{Exports, SCOPE},
    sampler::Sampler,
    traces::LINES_TARGET,
};

/// What is logged where nobody says otherwise.
pub const DEFAULT_FILTER: &str = "info";

/// Libraries that say much and rarely what is of use. They come first, so that a directive for one
/// of them takes the place of the one here.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,fjall=warn,lsm_tree=warn,opentelemetry=off";

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

/// A layer of the process' subscriber.
pub(super) type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Sends the log to standard error and to `others`, for the rest of the process.
pub(super) fn install(filter: EnvFilter, form: Form, others: Vec<BoxedLayer>) -> Result<(), Error> {
    let ansi = form == Form::Terminal && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(ansi);
    let lines = match form {
        Form::Terminal | Form::Plain => lines.compact().with_filter(filter).boxed(),
        Form::Json => json_lines(io::stderr).with_filter(filter).boxed(),
    };
    // Innermost, so that what is logged within an exported span can name it.
    let mut layers = others;
    layers.push(lines);
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|error| Error::Twice(error.to_string()))
}

fn json_lines<W>(writer: W) -> impl Layer<Registry> + Send + Sync
where
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    fmt::layer()
        .fmt_fields(fmt::format::JsonFields::new())
        .event_format(JsonLines)
        .with_ansi(false)
        .with_writer(writer)
}

/// What is exported of events and spans: those of duite itself. What the exporters and the
/// transport below them say never is, or each export would make the next.
pub(super) fn export_layers(exports: &Exports, sampler: Sampler) -> Vec<BoxedLayer> {
    let mut layers: Vec<BoxedLayer> = Vec::new();
    if let Some(spans) = &exports.spans {
        let tracer = spans.provider(sampler).tracer(SCOPE);
        let spans = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_error_fields_to_exceptions(false)
            .with_error_events_to_exceptions(false)
            .with_error_records_to_exceptions(false)
            .with_error_events_to_status(true)
            .with_location(false)
            .with_threads(false);
        let wanted =
            filter_fn(|what| is_ours(what) && (what.is_span() || *what.level() == Level::ERROR));
        layers.push(spans.with_filter(wanted).boxed());
    }
    if let Some(logs) = &exports.logs {
        let bridge = OpenTelemetryTracingBridge::new(&logs.provider);
        let wanted = filter_fn(|what| what.is_event() && is_ours(what));
        layers.push(bridge.with_filter(wanted).boxed());
    }
    layers
}

fn is_ours(what: &Metadata<'_>) -> bool {
    let target = what.target();
    let within = |module: &str| {
        let rest = target.strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    *what.level() <= Level::INFO
        && within("duite")
        && !within("duite::telemetry")
        // A background job of the server has no end that a trace could wait for.
        && what.name() != "job"
        // Of a failed attempt there is a record already.
        && !within(LINES_TARGET)
}

pub(super) fn parse(filter: &str) -> Result<EnvFilter, Error> {
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
