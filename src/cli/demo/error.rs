//! What can go wrong in a demo.

use std::{io, path::PathBuf, time::Duration};

/// Why the demo did not end as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something of the operating system failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// What `--path` names is no folder.
    #[error("{0} is not a folder; name one with --path")]
    NotAFolder(PathBuf),
    /// There is no file to digest.
    #[error(
        "there is no file to digest under {0} (.gitignore is honoured); name another folder with --path"
    )]
    NothingToDo(PathBuf),
    /// The manifest would become a part of the tree that it describes.
    #[error("the manifest {path} would lie inside {root}; name a place outside with --manifest")]
    ManifestInside {
        /// Where it was to be.
        path: PathBuf,
        /// The folder that is digested.
        root: PathBuf,
    },
    /// No folder for temporary files was found outside the tree.
    #[error(
        "no folder for temporary files outside {root} can be written to: {tried}; set TMPDIR to one"
    )]
    NoScratch {
        /// The folder that is digested.
        root: PathBuf,
        /// What was tried and why it did not do.
        tried: String,
    },
    /// A call to the demo's own server failed.
    #[error("{0}")]
    Client(#[from] crate::client::Error),
    /// One of the demo's processes ended by itself.
    #[error("{name} ended by itself ({status}); the end of its log:\n{log}")]
    ProcessEnded {
        /// Which one.
        name: String,
        /// How it ended.
        status: String,
        /// The last lines of its log.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}; the ends of the logs:\n{logs}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// The last lines of all logs.
        logs: String,
    },
    /// A task did not succeed.
    #[error("not all tasks succeeded:\n{0}")]
    TaskFailed(String),
    /// A figure is off.
    #[error("the figures do not agree:\n{0}")]
    Mismatch(String),
    /// The server answered something that it should not.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// SIGINT or SIGTERM.
    #[error("interrupted; everything that was started is stopped")]
    Interrupted,
}

impl Error {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }
}
