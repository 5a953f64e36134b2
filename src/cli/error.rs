//! Errors as a person at the command line sees them, and the exit codes.

use std::{fmt, process::ExitCode};

/// What a command ended with. 2 is clap's, for options it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A call or a task failed.
    Failed = 1,
    /// There is no such task or state.
    NotFound = 3,
    /// The arguments make no sense together (sysexits' EX_USAGE).
    Usage = 64,
    /// No server answers (EX_UNAVAILABLE).
    Unavailable = 69,
    /// The server cannot go on (EX_SOFTWARE).
    Broken = 70,
}

/// Why a command failed: a message, where there is one a reason to look up and a hint what to do.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    message: String,
    reason: String,
    hint: Option<String>,
}

impl Error {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            reason: String::new(),
            hint: None,
        }
    }

    /// The command line or configuration is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The command could not do what it was asked for.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says it on standard error.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        eprintln!("{self}");
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "error: {}", self.message)?;
        if !self.reason.is_empty() {
            write!(formatter, " ({})", self.reason)?;
        }
        match &self.hint {
            Some(hint) => write!(formatter, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
