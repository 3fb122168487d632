//! Errors of Hearth's own operations.

use super::exception::{Family, Kind, Resource};

/// Errors of Hearth's own operations.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostError {
    /// A log group, a log stream or another resource of this host does not exist.
    #[error("{kind} not found: {id}")]
    NotFound {
        /// Kind of the resource, like `Log group`.
        kind: &'static str,
        /// Id of the resource.
        id: String,
    },
    /// The client reads events too slowly.
    #[error("{0} events were missed: the client reads too slowly")]
    EventsMissed(u64),
}

impl Family for HostError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::EventsMissed(_) => Kind::DataLoss,
        }
    }

    fn resource(&self) -> Option<Resource> {
        match self {
            Self::NotFound { kind, id } => Some(Resource { kind, id: id.clone() }),
            Self::EventsMissed(_) => None,
        }
    }
}
