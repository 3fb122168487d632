//! Errors about a request as a whole, or about one of its members.

use super::Violation;
use super::exception::{Family, Kind};

/// Errors about a request as a whole, or about one of its members.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvalidRequest {
    /// Members of the request violate the table of constraints.
    #[error("{}", constraint_message(.0))]
    Constraints(Vec<Violation>),
    /// The client token was used for another request.
    #[error("The provided clientToken was used with different request parameters.")]
    ClientTokenReused,
    /// The cursor was not made by this host, or belongs to another list.
    #[error("The nextToken is invalid: use the one of the page before, with the same parameters")]
    NextToken,
    /// Any other error in one member of a request.
    #[error("{message}")]
    Member {
        /// The member.
        field: &'static str,
        /// What is wrong with the member, as a sentence.
        message: String,
    },
}

impl Family for InvalidRequest {
    fn kind(&self) -> Kind {
        Kind::Validation
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Constraints(_) => None,
            Self::ClientTokenReused => Some("clientToken"),
            Self::NextToken => Some("nextToken"),
            Self::Member { field, .. } => Some(field),
        }
    }
}

fn constraint_message(violations: &[Violation]) -> String {
    let each: Vec<String> = violations.iter().map(Violation::message).collect();
    let plural = if violations.len() == 1 { "" } else { "s" };
    format!("{} validation error{plural} detected: {}", violations.len(), each.join("; "))
}
