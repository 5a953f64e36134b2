//! What the package describes and this version does not have.

use crate::domain::{Error, Reason};

/// The error for a part of the API that comes later.
pub(super) fn not_implemented(what: &str) -> Error {
    Error::new(
        Reason::NotImplemented,
        format!("{what} is not in this version"),
    )
}
