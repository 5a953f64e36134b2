//! Errors as a person at the command line sees them, and the exit codes.

use std::{fmt, process::ExitCode};

use tonic::Code;

use crate::client;

/// What a command ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nothing is wrong, there is only nobody to tell it to.
    Quiet = 0,
    /// A call or a task failed.
    Failed = 1,
    /// The arguments are wrong; clap's own errors end so too.
    Usage = 2,
    /// There is no such task, state or key.
    NotFound = 3,
    /// The server's configuration is wrong (sysexits' EX_USAGE).
    Config = 64,
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

    /// The command line is wrong.
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

    /// Names the server that does not answer.
    pub(crate) fn at(mut self, address: &str) -> Self {
        if self.exit == Exit::Unavailable && !self.message.contains(address) {
            self.message = format!("no server answers at {address}: {}", self.message);
        }
        self
    }

    /// Says it on standard error.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        if self.exit != Exit::Quiet {
            eprintln!("{self}");
        }
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

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        let exit = match error.code() {
            Code::NotFound => Exit::NotFound,
            Code::Unavailable | Code::DeadlineExceeded => Exit::Unavailable,
            _ => Exit::Failed,
        };
        let mut message = error.message().to_owned();
        for (field, problem) in error.violations() {
            if !message.contains(problem) {
                message.push_str(&format!("; {field}: {problem}"));
            }
        }
        let hint = match error.reason() {
            "TRANSPORT" | "STREAM_BROKEN" => {
                "`duite server` starts one; --addr or DUITE_ADDR names another"
            }
            "NAMESPACE_NOT_FOUND" => "--namespace or DUITE_NAMESPACE names another",
            "ERROR_GROUP_NOT_FOUND" => "`duite errors` shows the errors there are",
            "TASK_NOT_FOUND" => "`duite task list` shows the tasks there are",
            "STATE_NOT_FOUND" => {
                "`duite state list` shows the states there are; the first write makes one"
            }
            "REVISION_MISMATCH" => "read the state again and decide anew",
            "LEASE_LOST" => "the attempt is over, another may be running: stop here",
            "TASK_NOT_RETRYABLE" => "`duite task get` shows how it stands",
            "TASK_TERMINAL" => "`duite task get` shows how it ended",
            "TASK_EXISTS" if error.operation() != "RetryTasks" => {
                "choose another --id or --request-id"
            }
            _ => "",
        };
        Self {
            exit,
            message,
            reason: error.reason().to_owned(),
            hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
        }
    }
}
