//! Which traces are recorded: the samplers that `OTEL_TRACES_SAMPLER` names.

use crate::domain::trace::SpanRef;

/// Decides which traces are recorded, as the OpenTelemetry specification says: without a parent by
/// its root rule; with one by the parent, or by the same rule where it is not parent-based.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampler {
    pub(super) parent_based: bool,
    pub(super) root: Root,
}

/// What decides where no parent does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Root {
    AlwaysOn,
    AlwaysOff,
    /// By the trace id, so that every process decides alike; from 0 to 1.
    Ratio(f64),
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            parent_based: true,
            root: Root::AlwaysOn,
        }
    }
}

impl Sampler {
    /// Reads the two variables. The error says what is wrong; the default is used then.
    pub(super) fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match root {
            "always_on" => Root::AlwaysOn,
            "always_off" => Root::AlwaysOff,
            "traceidratio" => Root::Ratio(ratio(argument)?),
            _ => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER is {name:?}: it must be always_on, always_off, traceidratio, \
                     or one of these with parentbased_ before it; parentbased_always_on is used"
                ));
            }
        };
        Ok(Self { parent_based, root })
    }

    /// Whether a trace is recorded.
    pub(super) fn samples(self, parent: Option<SpanRef>, trace_id: u128) -> bool {
        match parent {
            Some(parent) if self.parent_based => parent.is_sampled(),
            _ => self.root.samples(trace_id),
        }
    }

    /// The same rule for the spans that the SDK makes.
    pub(super) fn of_sdk(self) -> opentelemetry_sdk::trace::Sampler {
        use opentelemetry_sdk::trace::Sampler as Sdk;
        let root = match self.root {
            Root::AlwaysOn => Sdk::AlwaysOn,
            Root::AlwaysOff => Sdk::AlwaysOff,
            Root::Ratio(ratio) => Sdk::TraceIdRatioBased(ratio),
        };
        match self.parent_based {
            true => Sdk::ParentBased(Box::new(root)),
            false => root,
        }
    }
}

impl Root {
    fn samples(self, trace_id: u128) -> bool {
        match self {
            Self::AlwaysOn => true,
            Self::AlwaysOff => false,
            // As the SDKs do it, so that a trace is recorded everywhere or nowhere.
            Self::Ratio(ratio) => {
                let bound = (ratio * (1_u64 << 63) as f64) as u64;
                (trace_id as u64) >> 1 < bound
            }
        }
    }
}

fn ratio(argument: Option<&str>) -> Result<f64, String> {
    let text = argument.unwrap_or("1");
    let ratio = text.parse().ok();
    ratio
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or_else(|| {
            format!(
                "OTEL_TRACES_SAMPLER_ARG is {text:?}: it must be a number from 0 to 1; \
                 parentbased_always_on is used"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(flags: u8) -> SpanRef {
        SpanRef {
            trace_id: 7,
            span_id: 1,
            flags,
        }
    }

    #[test]
    fn the_six_standard_names_decide_as_the_specification_says() {
        let (sampled, unsampled) = (Some(span(1)), Some(span(0)));
        // Without a parent, with a sampled one, with one that is not.
        for (name, expected) in [
            ("always_on", [true, true, true]),
            ("always_off", [false, false, false]),
            ("traceidratio", [false, false, false]),
            ("parentbased_always_on", [true, true, false]),
            ("parentbased_always_off", [false, true, false]),
            ("parentbased_traceidratio", [false, true, false]),
        ] {
            let sampler = Sampler::parse(name, Some("0")).unwrap();
            let decided = [None, sampled, unsampled].map(|parent| sampler.samples(parent, 7));
            assert_eq!(decided, expected, "{name}");
        }
    }

    #[test]
    fn a_tenth_is_a_tenth_and_the_sdk_decides_alike() {
        use opentelemetry::trace::{SpanKind, TraceId};
        use opentelemetry_sdk::trace::{SamplingDecision, ShouldSample};
        let sampler = Sampler::parse("traceidratio", Some("0.1")).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let mut taken = 0;
        for _ in 0..10_000 {
            let trace = random.u128(1..);
            let ours = sampler.samples(None, trace);
            let id = TraceId::from_bytes(trace.to_be_bytes());
            let theirs =
                sampler
                    .of_sdk()
                    .should_sample(None, id, "", &SpanKind::Internal, &[], &[]);
            assert_eq!(ours, theirs.decision == SamplingDecision::RecordAndSample);
            taken += u32::from(ours);
        }
        assert!((900..1_100).contains(&taken), "{taken}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        let unknown = Sampler::parse("xray", None).unwrap_err();
        assert!(
            unknown.contains("OTEL_TRACES_SAMPLER is \"xray\""),
            "{unknown}"
        );
        for argument in ["2", "-0.1", "NaN", "tenth"] {
            let wrong = Sampler::parse("traceidratio", Some(argument)).unwrap_err();
            assert!(wrong.contains(&format!("{argument:?}")), "{wrong}");
        }
    }
}
