//! Calls of the gRPC services: how long those take that are answered once, and how many streams
//! are open.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
};
use parking_lot::RwLock;

use super::{Metrics, OTHER};

/// Names of gRPC's codes, in their order.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
const CANCELLED: usize = 1;
const UNKNOWN: usize = 2;

/// A method, with its labels made once.
#[derive(Debug)]
pub(super) struct Method {
    streams: bool,
    /// Here and not beside the methods: a call then holds on to one thing, not two, and others count
    /// the same at the same moment.
    duration: Histogram<f64>,
    name: KeyValue,
    labels: Vec<[KeyValue; 3]>,
    active: AtomicI64,
    ended: [AtomicU64; CODES.len()],
}

impl Method {
    fn new(name: &str, streams: bool, duration: Histogram<f64>) -> Self {
        let name = KeyValue::new("rpc.method", name.to_owned());
        let labels = CODES.into_iter().map(|code| {
            [
                KeyValue::new("rpc.system.name", "grpc"),
                name.clone(),
                KeyValue::new("rpc.response.status_code", code),
            ]
        });
        Self {
            streams,
            duration,
            labels: labels.collect(),
            name,
            active: AtomicI64::new(0),
            ended: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// Every method that is known.
pub(super) type Methods = Arc<RwLock<HashMap<Box<str>, Arc<Method>>>>;

/// Counts calls. A clone is the same; the default one counts nothing.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    methods: HashMap<Box<str>, Arc<Method>>,
    other: Arc<Method>,
}

/// A call that has begun; one that is dropped was cancelled.
#[derive(Debug, Default)]
pub struct Call(Option<Begun>);

#[derive(Debug)]
struct Begun {
    method: Arc<Method>,
    at: Instant,
}

impl Metrics {
    /// Counts the calls of these methods, `package.Service/Method`, and whether one of its sides
    /// streams; those of all others together.
    #[must_use]
    pub fn calls(&self, methods: impl IntoIterator<Item = (String, bool)>) -> Calls {
        let Some(inner) = self.inner() else {
            return Calls::default();
        };
        let duration = &inner.instruments.call_duration;
        let mut known = inner.shared.methods.write();
        let mut method = |name: &str, streams| {
            let new = || Arc::new(Method::new(name, streams, duration.clone()));
            known.entry(name.into()).or_insert_with(new).clone()
        };
        let table = methods
            .into_iter()
            .map(|(name, streams)| (name.as_str().into(), method(&name, streams)));
        let methods = table.collect();
        Calls {
            inner: Some(Arc::new(Inner {
                methods,
                other: method(OTHER, false),
            })),
        }
    }
}

impl Calls {
    /// A call of the method at this path begins.
    #[must_use]
    pub fn begin(&self, path: &str) -> Call {
        let Some(calls) = &self.inner else {
            return Call::default();
        };
        let name = path.strip_prefix('/').unwrap_or(path);
        let method = calls.methods.get(name).unwrap_or(&calls.other).clone();
        if method.streams {
            method.active.fetch_add(1, Relaxed);
        }
        Call(Some(Begun {
            method,
            at: Instant::now(),
        }))
    }
}

impl Call {
    /// It ended with this `grpc-status`.
    pub fn end(mut self, status: &[u8]) {
        let code = std::str::from_utf8(status).ok();
        let code = code.and_then(|code| code.parse().ok());
        self.note(code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN));
    }

    fn note(&mut self, code: usize) {
        let Some(Begun { method, at }) = self.0.take() else {
            return;
        };
        if method.streams {
            method.active.fetch_sub(1, Relaxed);
            method.ended[code].fetch_add(1, Relaxed);
        } else {
            let seconds = at.elapsed().as_secs_f64();
            method.duration.record(seconds, &method.labels[code]);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.note(CANCELLED);
    }
}

/// Makes the instruments of streams.
pub(super) fn register(methods: &Methods, meter: &Meter) {
    let known = methods.clone();
    meter
        .i64_observable_up_down_counter("duite.streams.active")
        .with_unit("{stream}")
        .with_description("Calls that stream and are open")
        .with_callback(move |seen| {
            for method in known.read().values().filter(|method| method.streams) {
                seen.observe(
                    method.active.load(Relaxed),
                    std::slice::from_ref(&method.name),
                );
            }
        })
        .build();
    let known = methods.clone();
    meter
        .u64_observable_counter("duite.streams.ended")
        .with_unit("{stream}")
        .with_description("Calls that streamed and ended")
        .with_callback(move |seen| {
            for method in known.read().values().filter(|method| method.streams) {
                for (ended, labels) in method.ended.iter().zip(&method.labels) {
                    let ended = ended.load(Relaxed);
                    if ended > 0 {
                        seen.observe(ended, &labels[1..]);
                    }
                }
            }
        })
        .build();
}
