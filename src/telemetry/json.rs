//! Log lines for programs: one flat JSON object each.
//!
//! A line also has what the spans around it say, so that whoever looks for a task or a trace finds
//! every line of it by one field.

use std::fmt;

use opentelemetry::{Context, trace::TraceContextExt};
use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// See the module. Fields must be formatted as JSON.
#[derive(Debug)]
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut own = String::new();
        context.format_fields(Writer::new(&mut own), event)?;
        let mut fields = object(&own);
        // The innermost first: what is said closer goes before.
        for span in context.event_scope().into_iter().flatten() {
            if let Some(said) = span.extensions().get::<FormattedFields<N>>() {
                for (name, value) in object(&said.fields) {
                    fields.entry(name).or_insert(value);
                }
            }
        }
        Context::map_current(|current| {
            let span = current.span().span_context().clone();
            if span.is_valid() {
                let ids = [
                    ("trace_id", span.trace_id().to_string()),
                    ("span_id", span.span_id().to_string()),
                ];
                for (name, id) in ids {
                    fields.entry(name).or_insert(Value::String(id));
                }
            }
        });
        let metadata = event.metadata();
        let level = metadata.level();
        let target = Value::String(metadata.target().to_owned());
        write!(
            writer,
            r#"{{"timestamp":"{time}","level":"{level}","target":{target}"#
        )?;
        if let Some(message) = fields.remove("message") {
            write!(writer, r#","message":{message}"#)?;
        }
        for (name, value) in fields {
            write!(writer, ",{}:{value}", Value::String(name))?;
        }
        writeln!(writer, "}}")
    }
}

fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{fmt::format::JsonFields, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_flat_and_has_what_the_spans_around_it_say() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            let outer = tracing::info_span!("task", task.id = "t-1", attempt = 1, trace_id = "abc");
            let _outer = outer.enter();
            let _inner = tracing::info_span!("step", attempt = 2).entered();
            tracing::warn!(count = 3, text = "a \"quote\"", "it happened");
        });
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let line: Value = serde_json::from_str(&written).expect(&written);
        assert_eq!(line["message"], "it happened");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["task.id"], "t-1");
        assert_eq!(line["trace_id"], "abc");
        assert_eq!(line["attempt"], 2, "the innermost span goes before");
        assert_eq!(line["count"], 3);
        assert_eq!(line["text"], "a \"quote\"");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }
}
