//! What is exported, by the standard variables of OpenTelemetry.
//!
//! Only what decides whether there is an exporter, and how large its queue is, is read here; where
//! it sends to, with which headers and how patiently, is read by the exporter itself. As the
//! specification asks, a value that cannot be used is told of and treated as if it were not there.
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>

use opentelemetry_sdk::trace::Sampler;

const DEFAULT_QUEUE: usize = 2_048;
/// A larger queue would be memory that nobody asked for.
const MAX_QUEUE: usize = 1 << 20;

/// What is exported.
#[derive(Clone, Debug)]
pub(crate) struct ExportSettings {
    pub(crate) traces: bool,
    pub(crate) logs: bool,
    pub(super) sampler: Sampler,
    pub(super) span_queue: usize,
    pub(super) log_queue: usize,
    /// What was wrong, one line each.
    pub(super) problems: Vec<String>,
}

impl ExportSettings {
    /// Reads the variables that `env` looks up.
    pub(crate) fn read(env: impl Fn(&str) -> Option<String>) -> Self {
        let mut reader = Reader {
            env,
            problems: Vec::new(),
        };
        let disabled = reader.flag("OTEL_SDK_DISABLED");
        let traces = !disabled && reader.exports("TRACES");
        let logs = !disabled && reader.exports("LOGS");
        let sampler = reader.sampler();
        let span_queue = reader.queue("OTEL_BSP_MAX_QUEUE_SIZE");
        let log_queue = reader.queue("OTEL_BLRP_MAX_QUEUE_SIZE");
        Self {
            traces,
            logs,
            sampler,
            span_queue,
            log_queue,
            problems: reader.problems,
        }
    }
}

struct Reader<E> {
    env: E,
    problems: Vec<String>,
}

impl<E: Fn(&str) -> Option<String>> Reader<E> {
    /// An empty variable is one that is not set.
    fn get(&self, name: &str) -> Option<String> {
        let value = (self.env)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn flag(&mut self, name: &str) -> bool {
        let Some(value) = self.get(name) else {
            return false;
        };
        match value.to_ascii_lowercase().as_str() {
            "true" => true,
            "false" => false,
            _ => {
                self.problem(name, &value, "write true or false", "false");
                false
            }
        }
    }

    /// Nothing leaves the process unless somebody says where to, or asks for the exporter.
    fn exports(&mut self, signal: &str) -> bool {
        let exporter = format!("OTEL_{signal}_EXPORTER");
        let asked = match self.get(&exporter).as_deref() {
            None => {
                let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
                self.get("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() || self.get(&own).is_some()
            }
            Some("otlp") => true,
            Some("none") => false,
            Some(other) => {
                let other = other.to_owned();
                self.problem(&exporter, &other, "write otlp or none", "none");
                false
            }
        };
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_PROTOCOL");
        for name in [own.as_str(), "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            match self.get(name).as_deref() {
                None => {}
                Some("grpc") => break,
                Some(other) if asked => {
                    let other = other.to_owned();
                    self.problem(name, &other, "only grpc is spoken here", "grpc");
                    break;
                }
                Some(_) => break,
            }
        }
        asked
    }

    fn sampler(&mut self) -> Sampler {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let default = || Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
        let Some(name) = self.get(NAME) else {
            return default();
        };
        match name.as_str() {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(self.ratio()),
            "parentbased_always_on" => default(),
            "parentbased_always_off" => Sampler::ParentBased(Box::new(Sampler::AlwaysOff)),
            "parentbased_traceidratio" => {
                Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(self.ratio())))
            }
            _ => {
                let known =
                    "write always_on, always_off, traceidratio, or one of these after parentbased_";
                self.problem(NAME, &name, known, "parentbased_always_on");
                default()
            }
        }
    }

    fn ratio(&mut self) -> f64 {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(text) = self.get(NAME) else {
            return 1.0;
        };
        match text.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                self.problem(NAME, &text, "write a number from 0 to 1", "1");
                1.0
            }
        }
    }

    fn queue(&mut self, name: &str) -> usize {
        let Some(text) = self.get(name) else {
            return DEFAULT_QUEUE;
        };
        match text.parse() {
            Ok(size @ 1..=MAX_QUEUE) => size,
            _ => {
                let known = format!("write a number from 1 to {MAX_QUEUE}");
                self.problem(name, &text, &known, &DEFAULT_QUEUE.to_string());
                DEFAULT_QUEUE
            }
        }
    }

    fn problem(&mut self, name: &str, value: &str, advice: &str, used: &str) {
        self.problems.push(format!(
            "{name} is `{value}`, which cannot be used: {advice}; {used} is taken"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> ExportSettings {
        ExportSettings::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn nothing_is_exported_unless_it_is_said_where_to_or_asked_for() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://tempo:4317");
        let cases: [(&[_], bool, bool); 7] = [
            (&[], false, false),
            (&[endpoint], true, true),
            (&[own], true, false),
            (&[("OTEL_TRACES_EXPORTER", "otlp")], true, false),
            (&[endpoint, ("OTEL_LOGS_EXPORTER", "none")], true, false),
            (&[endpoint, ("OTEL_SDK_DISABLED", "true")], false, false),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")], false, false),
        ];
        for (variables, traces, logs) in cases {
            let settings = read(variables);
            assert_eq!(
                (settings.traces, settings.logs),
                (traces, logs),
                "{variables:?}"
            );
            assert_eq!(settings.problems, Vec::<String>::new());
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_name_and_value() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_LOGS_EXPORTER", "console"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_SDK_DISABLED", "no"),
        ]);
        assert!(settings.traces && !settings.logs);
        assert_eq!(settings.span_queue, DEFAULT_QUEUE);
        assert_eq!(settings.problems.len(), 5, "{:?}", settings.problems);
        let first = &settings.problems[0];
        assert_eq!(
            first,
            "OTEL_SDK_DISABLED is `no`, which cannot be used: write true or false; false is taken"
        );
    }

    #[test]
    fn all_samplers_of_the_specification_are_known() {
        for (name, shown) in [
            ("always_on", "AlwaysOn"),
            ("always_off", "AlwaysOff"),
            ("traceidratio", "TraceIdRatioBased(0.25)"),
            ("parentbased_always_on", "ParentBased(AlwaysOn)"),
            ("parentbased_always_off", "ParentBased(AlwaysOff)"),
            (
                "parentbased_traceidratio",
                "ParentBased(TraceIdRatioBased(0.25))",
            ),
        ] {
            let settings = read(&[
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ]);
            assert_eq!(format!("{:?}", settings.sampler), shown);
        }
        let wrong = read(&[
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ]);
        assert_eq!(wrong.problems.len(), 1);
    }
}
