//! Why an operation on an image fails.

use crate::lifecycle::image::Refusal;
use crate::store::StoreError;

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageQuota {
    /// Images of an account.
    Images,
    /// Versions of an image.
    Versions,
    /// Builds of an account that are under way.
    Builds,
}

/// Why an operation failed. Nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImagesError {
    /// An image of that name exists.
    #[error("there is an image {0} already")]
    Exists(String),
    /// The image does not exist.
    #[error("there is no such image")]
    NotFound,
    /// The image was deleted less than a day ago.
    #[error("the image has been deleted")]
    Deleted,
    /// The state of the image does not allow the operation.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A quota is reached.
    #[error("the limit of {limit} is reached")]
    Quota {
        /// The quota.
        quota: ImageQuota,
        /// The greatest allowed number.
        limit: u64,
    },
    /// An expectation of the accompanying batch did not hold: the client token was used meanwhile.
    #[error("the state has changed meanwhile")]
    Conflict,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is shutting down.
    #[error("the daemon is stopping")]
    Stopping,
}
