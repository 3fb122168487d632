//! The reason why a request of the host failed: the protocol's `Failure` as an error.

use std::fmt::Display;
use std::io;

use hearth_proto::guest::v1::{Failure, FailureCode};

/// A request that failed. The message says what failed, why, and what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Kind of the failure.
    pub code: FailureCode,
    /// Message for people.
    pub message: String,
}

impl Refusal {
    /// The request is invalid, in itself or in the present state.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: FailureCode::Invalid, message: message.into() }
    }

    /// Something that the request names does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { code: FailureCode::NotFound, message: message.into() }
    }

    /// The kernel refused `what`.
    pub fn system(what: impl Display, error: &io::Error) -> Self {
        Self { code: FailureCode::System, message: format!("{what}: {error}") }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code.into(), message: refusal.message }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code(), message: failure.message }
    }
}

/// Adds the operation that failed to an error.
pub trait Context<T> {
    /// Makes a [`Refusal`] of the error; `what` is the operation that failed.
    ///
    /// # Errors
    /// The error, with `what` before it.
    fn or_refuse<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Refusal>;
}

impl<T> Context<T> for io::Result<T> {
    fn or_refuse<D: Display>(self, what: impl FnOnce() -> D) -> Result<T, Refusal> {
        self.map_err(|error| Refusal::system(what(), &error))
    }
}
