//! Errors of Hearth's own operations.

use super::exception::{Family, Kind, Resource};
use crate::service::host::artifacts::error::ArtifactError;

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
    /// Another backup of the store is being made.
    #[error("The back-up {0} of the store is being made. Wait until it has ended, then try again.")]
    BackupUnderWay(String),
    /// An operation on artifacts has failed.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl Family for HostError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::EventsMissed(_) => Kind::DataLoss,
            Self::BackupUnderWay(_) => Kind::Conflict,
            Self::Artifact(ArtifactError::NoKey(_) | ArtifactError::NoUpload) => Kind::NotFound,
            Self::Artifact(ArtifactError::Condition) => Kind::Conflict,
            Self::Artifact(ArtifactError::Io(_)) => Kind::Internal,
            Self::Artifact(_) => Kind::Validation,
        }
    }

    fn resource(&self) -> Option<Resource> {
        match self {
            Self::NotFound { kind, id } => Some(Resource { kind, id: id.clone() }),
            Self::Artifact(ArtifactError::NoKey(key)) => Some(Resource { kind: "Artifact", id: key.clone() }),
            Self::BackupUnderWay(name) => Some(Resource { kind: "Back-up", id: name.clone() }),
            Self::Artifact(_) | Self::EventsMissed(_) => None,
        }
    }

    fn field(&self) -> Option<&str> {
        match self {
            Self::Artifact(ArtifactError::Key) => Some("key"),
            Self::Artifact(ArtifactError::TooLarge(_) | ArtifactError::Empty) => Some("data"),
            _ => None,
        }
    }
}
