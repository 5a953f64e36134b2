//! What is exported, by the standard `OTEL_` variables alone.
//!
//! A value that cannot be used is told of by name, and the default takes its place, as the
//! specification asks. Endpoints, headers and timeouts are read by the exporters themselves.

use std::{fmt::Display, str::FromStr, time::Duration};

use super::super::sampler::Sampler;

/// Items of a signal that may wait, however many are asked for.
const MAX_QUEUE: usize = 65_536;

/// Who exports: what it calls itself unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server.
    Server,
    /// A worker process.
    Worker,
    /// A command that exports nothing.
    Command,
}

impl Role {
    pub(super) fn service_name(self) -> &'static str {
        match self {
            Self::Worker => "duite-worker",
            Self::Server | Self::Command => "duite",
        }
    }
}

/// What is exported, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::telemetry) struct Settings {
    pub(in crate::telemetry) spans: Option<Batching>,
    pub(in crate::telemetry) logs: Option<Batching>,
    pub(in crate::telemetry) sampler: Sampler,
    /// What could not be used, for people.
    pub(in crate::telemetry) problems: Vec<String>,
}

/// How many items are held and sent at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::telemetry) struct Batching {
    /// Beyond so many items that wait or are on their way, others are dropped.
    pub(in crate::telemetry) queue: usize,
    /// Items of one export.
    pub(in crate::telemetry) batch: usize,
    /// The longest that an item waits for company.
    pub(in crate::telemetry) delay: Duration,
}

impl Settings {
    /// Reads them. `role` says whether this process exports at all.
    pub(in crate::telemetry) fn read(role: Role, get: impl Fn(&str) -> Option<String>) -> Self {
        if role == Role::Command {
            return Self::default();
        }
        let mut reader = Reader {
            get,
            problems: Vec::new(),
        };
        if reader.is_disabled() {
            return Self {
                problems: reader.problems,
                ..Self::default()
            };
        }
        let spans = reader
            .exports("TRACES")
            .then(|| reader.batching("BSP", 5_000));
        let logs = reader
            .exports("LOGS")
            .then(|| reader.batching("BLRP", 1_000));
        let sampler = match spans {
            Some(_) => reader.sampler(),
            None => Sampler::default(),
        };
        Self {
            spans,
            logs,
            sampler,
            problems: reader.problems,
        }
    }
}

struct Reader<G> {
    get: G,
    problems: Vec<String>,
}

impl<G: Fn(&str) -> Option<String>> Reader<G> {
    /// A variable that is empty is one that is not set.
    fn text(&self, name: &str) -> Option<String> {
        let text = (self.get)(name)?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn is_disabled(&mut self) -> bool {
        let Some(text) = self.text("OTEL_SDK_DISABLED") else {
            return false;
        };
        if !["true", "false"].contains(&text.to_lowercase().as_str()) {
            self.problems.push(format!(
                "OTEL_SDK_DISABLED is {text:?}: it must be true or false; false is used"
            ));
        }
        text.eq_ignore_ascii_case("true")
    }

    /// Whether a signal is exported: nothing is unless somebody names an exporter or an endpoint.
    fn exports(&mut self, signal: &str) -> bool {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        let has_endpoint =
            self.text(&own).is_some() || self.text("OTEL_EXPORTER_OTLP_ENDPOINT").is_some();
        let variable = format!("OTEL_{signal}_EXPORTER");
        let wanted = match self.text(&variable).as_deref() {
            None => has_endpoint,
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => {
                self.problems.push(format!(
                    "{variable} is {other:?}: it must be otlp or none; otlp is used where an endpoint \
                     is set"
                ));
                has_endpoint
            }
        };
        wanted && self.speaks_grpc(signal)
    }

    fn speaks_grpc(&mut self, signal: &str) -> bool {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_PROTOCOL");
        for variable in [own.as_str(), "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            match self.text(variable).as_deref() {
                None => {}
                Some("grpc") => return true,
                Some(other) => {
                    let signal = signal.to_lowercase();
                    self.problems.push(format!(
                        "{variable} is {other:?}: only grpc is spoken, so {signal} are not exported; \
                         set it to grpc and the endpoint to the collector's gRPC port, often 4317"
                    ));
                    return false;
                }
            }
        }
        true
    }

    fn sampler(&mut self) -> Sampler {
        let Some(name) = self.text("OTEL_TRACES_SAMPLER") else {
            return Sampler::default();
        };
        let argument = self.text("OTEL_TRACES_SAMPLER_ARG");
        Sampler::parse(&name, argument.as_deref()).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Sampler::default()
        })
    }

    fn batching(&mut self, prefix: &str, delay_ms: u64) -> Batching {
        let queue = self.number(&format!("OTEL_{prefix}_MAX_QUEUE_SIZE"), 2_048, 1);
        // The SDK takes the memory of the whole queue at once.
        let queue = queue.min(MAX_QUEUE);
        let batch = self.number(&format!("OTEL_{prefix}_MAX_EXPORT_BATCH_SIZE"), 512, 1);
        // Without any delay its thread would never rest.
        let delay = self.number(&format!("OTEL_{prefix}_SCHEDULE_DELAY"), delay_ms, 1);
        Batching {
            queue,
            batch: batch.min(queue),
            delay: Duration::from_millis(delay),
        }
    }

    fn number<N>(&mut self, variable: &str, default: N, least: N) -> N
    where
        N: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(variable) else {
            return default;
        };
        match text.parse() {
            Ok(number) if number >= least => number,
            _ => {
                self.problems.push(format!(
                    "{variable} is {text:?}: it must be a whole number of at least {least}; {default} \
                     is used"
                ));
                default
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Settings {
        Settings::read(Role::Server, |name| {
            let found = variables.iter().find(|(set, _)| *set == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

    #[test]
    fn nothing_is_exported_unless_an_endpoint_or_an_exporter_is_set() {
        let is_on = |variables: &[(&str, &str)]| {
            let settings = read(variables);
            assert_eq!(settings.problems, Vec::<String>::new());
            (settings.spans.is_some(), settings.logs.is_some())
        };
        assert_eq!(is_on(&[]), (false, false));
        assert_eq!(
            is_on(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]),
            (false, false)
        );
        assert_eq!(is_on(&[ENDPOINT]), (true, true));
        assert_eq!(
            is_on(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c:4317")]),
            (false, true)
        );
        assert_eq!(is_on(&[("OTEL_TRACES_EXPORTER", "otlp")]), (true, false));
        assert_eq!(
            is_on(&[ENDPOINT, ("OTEL_LOGS_EXPORTER", "none")]),
            (true, false)
        );
        assert_eq!(
            is_on(&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")]),
            (false, false)
        );
        let command = Settings::read(Role::Command, |_| Some("otlp".to_owned()));
        assert_eq!(command, Settings::default());
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named_and_the_default_takes_its_place() {
        let settings = read(&[
            ENDPOINT,
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "1s"),
            ("OTEL_LOGS_EXPORTER", "console"),
        ]);
        let spans = settings.spans.unwrap();
        assert_eq!((spans.queue, spans.batch), (2_048, 512));
        assert_eq!(settings.logs.unwrap().delay, Duration::from_secs(1));
        assert_eq!(settings.sampler, Sampler::default());
        let problems = settings.problems.join("\n");
        for part in ["\"yes\"", "\"sometimes\"", "\"0\"", "\"1s\"", "\"console\""] {
            assert!(problems.contains(part), "{part} is not in {problems}");
        }
    }

    #[test]
    fn another_protocol_exports_nothing_and_says_so() {
        let settings = read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
        assert_eq!((settings.spans, settings.logs), (None, None));
        assert_eq!(settings.problems.len(), 2);
        assert!(settings.problems[0].contains("only grpc is spoken"));
    }

    #[test]
    fn a_batch_is_never_larger_than_the_queue() {
        let spans = read(&[ENDPOINT, ("OTEL_BSP_MAX_QUEUE_SIZE", "10")]).spans;
        assert_eq!(spans.map(|spans| spans.batch), Some(10));
    }
}
