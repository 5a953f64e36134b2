//! What can go wrong in a benchmark.

use std::{io, path::PathBuf, time::Duration};

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The run's own ceiling is too low for its figures to mean anything.
    #[error(
        "void: {0}; the machine is busy or too slow, or this is a debug build: see docs/BENCHMARKS.md"
    )]
    Void(String),
    /// Something of the operating system failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The embedded store failed.
    #[error("the fjall loop failed: {0}; look at the free space of the --data folder")]
    Store(#[from] fjall::Error),
    /// The worker of this process or its connection failed.
    #[error("the worker failed: {0}")]
    Worker(#[from] crate::client::Error),
    /// The server process ended before it was ready.
    #[error("the server ended before it was ready ({status}); the end of its log:\n{log}")]
    ServerEnded {
        /// How it ended.
        status: String,
        /// The last lines it wrote to standard error.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}; is the server stuck or overloaded?")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
    },
    /// The address cannot be used.
    #[error("cannot connect to {address}: {cause}; is a server listening there?", cause = root_cause(source))]
    Connect {
        /// The address as it was tried.
        address: String,
        /// Why it failed.
        source: tonic::transport::Error,
    },
    /// A call failed.
    #[error("{call} failed with {code:?}: {message}", code = status.code(), message = status.message())]
    Call {
        /// Which call.
        call: &'static str,
        /// What the server said.
        status: Box<tonic::Status>,
    },
    /// The server answered something that the protocol does not allow here.
    #[error("{call}: unexpected answer: {what}")]
    Unexpected {
        /// Which call.
        call: &'static str,
        /// What came.
        what: String,
    },
    /// Nothing was counted, so nothing can be reported.
    #[error("{0} in the measured time; try a longer --duration")]
    NothingMeasured(&'static str),
    /// A folder that must exist does not.
    #[error("the data folder {0} is not a folder; create it, or name another one with --data")]
    NoFolder(PathBuf),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// A task or thread of the benchmark panicked.
    #[error("the benchmark panicked; its message is above")]
    Panicked,
}

impl Error {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    pub(super) fn call(call: &'static str) -> impl Fn(tonic::Status) -> Self {
        move |status| Self::Call {
            call,
            status: Box::new(status),
        }
    }

    pub(super) fn unexpected(call: &'static str, what: impl Into<String>) -> Self {
        Self::Unexpected {
            call,
            what: what.into(),
        }
    }
}

/// What lies under all the layers: tonic's own message only says "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
