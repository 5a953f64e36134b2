//! The one registry of error reasons, and the error that carries one.
//!
//! A reason is stable: clients act on it, never on the message. `service/` maps it to a gRPC
//! status with `google.rpc.ErrorInfo`; `docs/ERRORS.md` describes each for people (a test
//! compares the two).

use std::{collections::BTreeMap, fmt};

/// How a gRPC client should see a reason; the canonical code of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Code {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    Internal,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $text:literal, $code:ident;)*) => {
        /// Why a call or a key was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])* $variant,)* }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As `ErrorInfo.reason` has it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The gRPC code it travels under.
            #[must_use]
            pub fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// What it means and what to do.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)*),)* }
            }
        }
    };
}

reasons! {
    /// A field of the request is missing, malformed or out of bounds; the message names it. Correct it.
    FieldInvalid = "FIELD_INVALID", InvalidArgument;
    /// The page token was made for another request. Start again without it.
    PageTokenMismatch = "PAGE_TOKEN_MISMATCH", InvalidArgument;
    /// The resume token or position is not one this service made. Start without it.
    ResumeTokenMalformed = "RESUME_TOKEN_MALFORMED", InvalidArgument;
    /// The lease token is not one this service made. Use the one from LeaseTasks as it came.
    LeaseTokenMalformed = "LEASE_TOKEN_MALFORMED", InvalidArgument;
    /// There is no task of this name, or its retention is over.
    TaskNotFound = "TASK_NOT_FOUND", NotFound;
    /// There is no state of this name. A first update creates it.
    StateNotFound = "STATE_NOT_FOUND", NotFound;
    /// There is no namespace of this name. The first task or update in it creates it.
    NamespaceNotFound = "NAMESPACE_NOT_FOUND", NotFound;
    /// There is no error group of this fingerprint. List the groups.
    ErrorGroupNotFound = "ERROR_GROUP_NOT_FOUND", NotFound;
    /// A task of this id stands already, made by a different request. Choose another id. Of a retry: the task was repeated already.
    TaskExists = "TASK_EXISTS", AlreadyExists;
    /// The task has ended; a terminal status never changes. Submit it anew.
    TaskTerminal = "TASK_TERMINAL", FailedPrecondition;
    /// Only a failed or cancelled task can be repeated. Wait for its end, or submit a new one.
    TaskNotRetryable = "TASK_NOT_RETRYABLE", FailedPrecondition;
    /// The state's revision is not the expected one. Read it again and decide anew.
    RevisionMismatch = "REVISION_MISMATCH", Aborted;
    /// The lease is over: it expired, was released, or another attempt has begun. Stop the work.
    LeaseLost = "LEASE_LOST", Aborted;
    /// The writer was unknown or idle too long to tell duplicates. Begin a new writer and say what was unacknowledged.
    WriterExpired = "WRITER_EXPIRED", Aborted;
    /// Another stream opened with the same writer id; only the newest may write.
    WriterTakenOver = "WRITER_TAKEN_OVER", Aborted;
    /// The position comes from an earlier life of the store. Read anew.
    EpochChanged = "EPOCH_CHANGED", Aborted;
    /// History up to the token is gone and the watch asked to fail rather than reset. Watch without a token.
    RevisionCompacted = "REVISION_COMPACTED", OutOfRange;
    /// A value, payload or batch is over its limit. Make it smaller or split it.
    ValueTooLarge = "VALUE_TOO_LARGE", ResourceExhausted;
    /// The state holds as many keys as it may. Delete some or use another state.
    TooManyKeys = "TOO_MANY_KEYS", ResourceExhausted;
    /// As many watches or push streams are open as the server allows. Wait, or close some.
    TooManyStreams = "TOO_MANY_STREAMS", ResourceExhausted;
    /// A bound of the service is reached (namespaces, waiting calls, queues with settings). Back off and retry.
    QuotaExceeded = "QUOTA_EXCEEDED", ResourceExhausted;
    /// The server's disk is nearly full: what adds something is refused, reads go on. Retry; it is taken once there is room.
    StorageFull = "STORAGE_FULL", ResourceExhausted;
    /// The server is stopping, the stream has reached its age, or the namespace begins anew after a failure. Reconnect; nothing is lost.
    StreamDraining = "STREAM_DRAINING", Unavailable;
    /// The server is starting or stopping, or the namespace begins anew after a failure: the call may have been done. Retry with the same request id.
    NotReady = "NOT_READY", Unavailable;
    /// The journal could not be written or read. Retry; the server's log has the cause.
    JournalUnavailable = "JOURNAL_UNAVAILABLE", Unavailable;
    /// The data of a task's input or output is damaged on the server's disk. Submit the task anew; the server's log has the place.
    PayloadDamaged = "PAYLOAD_DAMAGED", Internal;
    /// This part of the API exists but its behaviour comes in a later version.
    NotImplemented = "NOT_IMPLEMENTED", Unimplemented;
    /// A defect of the service. The message helps whoever mends it; please report it.
    Internal = "INTERNAL", Internal;
    /// Rejected key: its operation needs a number of the same kind (integer or number) as the key holds.
    TypeMismatch = "TYPE_MISMATCH", InvalidArgument;
    /// Rejected key: the result does not fit 64 bits.
    Overflow = "OVERFLOW", InvalidArgument;
    /// Rejected key: the value is not an encoded duite.v1.Value, or not a number where one is needed.
    ValueInvalid = "VALUE_INVALID", InvalidArgument;
    /// Rejected key: the key is empty, longer than 256 bytes or not UTF-8.
    KeyInvalid = "KEY_INVALID", InvalidArgument;
}

/// What went wrong, with its stable reason, a message for people and the same facts as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What clients act on.
    pub reason: Reason,
    /// What was wrong, with which value, and what to do.
    pub message: String,
    /// Everything dynamic in the message, for programs (AIP-193).
    pub metadata: BTreeMap<&'static str, String>,
}

impl Error {
    /// An error with its message.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// A field of a request that is wrong.
    #[must_use]
    pub fn field(field: &'static str, problem: impl fmt::Display) -> Self {
        Self::new(Reason::FieldInvalid, format!("{field} {problem}")).with("field", field)
    }

    /// Adds a fact.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key, value.to_string());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason.as_str())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_unique_and_within_what_error_info_allows() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in Reason::ALL {
            let text = reason.as_str();
            assert!(seen.insert(text), "{text} stands twice");
            assert!(text.len() <= 63 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
            assert!(!reason.description().trim().is_empty());
        }
    }
}
