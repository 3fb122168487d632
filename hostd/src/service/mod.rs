//! The operations of the API: checks of requests, permissions, and the work itself.
//!
//! A front end ([`crate::api`]) finds out who calls and passes the request to [`Service::call`], with the generated
//! request and response types. Failures are [`ServiceError`]s; their accessors return everything that a client receives
//! about them.
//!
//! Each operation runs the same steps in this order (docs/behaviour.md, "Order of checks"): rate limit ([`quota`]),
//! constraints of the request ([`constraints`]), syntax of names ([`names`]), permission ([`crate::access`]), client
//! token ([`idempotency`]), the work, which finds what the store contains, and audit ([`observe`]).
//!
//! * [`pipeline`] – these steps, and what an operation is
//! * [`crate::operation`] – names of the operations and their request messages; [`config`] – settings
//! * [`error`] – errors
//! * [`constraints`], [`names`], [`quota`], [`idempotency`] – the steps before the work
//! * [`observe`] – observation of calls; [`json`] – messages as JSON with AWS's names
//! * [`cursor`], [`page`] – pages of lists
//! * [`roles`] – permission to give a role to a microVM or a build
//! * [`run`], [`microvms`], [`auth_tokens`] – operations on microVMs
//! * [`reads`], [`images`], [`managed`], [`tags`] – images, their versions and builds; base images; tags
//! * [`host`] – Hearth's own operations
//! * [`sts`] – temporary credentials, and who calls
// This module computes with values that clients send: arithmetic must not overflow, and indices must not be out of
// range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

mod auth_tokens;
pub mod config;
pub(crate) mod constraints;
pub mod cursor;
pub mod error;
pub mod host;
pub(crate) mod idempotency;
mod images;
pub(crate) mod json;
mod managed;
mod microvms;
pub mod names;
pub mod observe;
pub(crate) mod page;
pub(crate) mod pipeline;
pub mod quota;
mod reads;
pub(crate) mod roles;
mod run;
pub(crate) mod sts;
mod tags;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;

use hearth_base::Catalogue;
use hearth_host::roles::RoleProvider;
use hearth_image_builder::artifact::ArtifactConfig;
use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::store::v1::{ImageRecord, VersionRecord};

use self::cursor::Cursors;
use self::error::{ImageError, LimitError, NameError};
use self::host::HostParts;
use self::observe::CallObserver;
use self::quota::Quotas;
use crate::access::{Caller, Sessions};
use crate::builds::Images;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::driver::Microvms;
use crate::records;
use crate::scrub::Damaged;
use crate::store::{Db, Table};
use crate::tokens::Tokens;
use crate::turns::{self, Turns};

pub use crate::operation::{Operation, Request};
pub use config::{Profile, ServiceConfig};
pub use error::{Exception, Resource, ServiceError, Shown, Violation};
pub use quota::{Limits, Quota, Rate};

/// The components that a service uses.
pub struct Parts {
    /// The store.
    pub db: Db,
    /// The clock.
    pub clock: Clock,
    /// The drivers of the microVMs.
    pub microvms: Microvms,
    /// The images.
    pub images: Images,
    /// Room on the disk.
    pub disk: Disk,
    /// Builds whose files are known to be damaged.
    pub damaged: Damaged,
    /// The sources from which artifacts may be fetched.
    pub artifacts: ArtifactConfig,
    /// The base images.
    pub bases: Catalogue,
    /// Tokens for endpoints.
    pub tokens: Tokens,
    /// The provider of credentials for roles.
    pub roles: Arc<RoleProvider>,
    /// The components of Hearth's own operations.
    pub host: HostParts,
    /// Receives each call.
    pub observer: Arc<dyn CallObserver>,
    /// The settings.
    pub config: ServiceConfig,
}

/// The operations. Clones are cheap and share all state.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

struct Inner {
    parts: Parts,
    quotas: Quotas,
    cursors: Cursors,
    sessions: Sessions,
    /// Serialises calls with the same client token ([`Service::turn`]).
    turns: Turns,
    /// Turns at reading the catalogue of base images.
    catalogue: Turns,
    /// Turns at following events, builds and logs.
    followers: Turns,
}

impl Service {
    /// Creates a service from its components.
    ///
    /// # Errors
    ///
    /// Errors of the store, which holds the key that encrypts cursors.
    pub async fn new(parts: Parts) -> Result<Self, ServiceError> {
        let cursors = Cursors::open(&parts.db).await?;
        let (turns, catalogue) = (Turns::new(turns::Limits::ONE_EACH), Turns::new(turns::Limits::FILES));
        let followers = Turns::new(turns::Limits::FOLLOWERS);
        let quotas = Quotas::new(&parts.config.limits);
        let ServiceConfig { region, role_policies, .. } = &parts.config;
        let roles = Arc::clone(&parts.roles);
        let sessions = Sessions::new(region, parts.tokens.clone(), roles, role_policies.clone());
        Ok(Self { inner: Arc::new(Inner { parts, quotas, cursors, sessions, turns, catalogue, followers }) })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ServiceConfig {
        &self.inner.parts.config
    }

    pub(crate) fn db(&self) -> &Db {
        &self.inner.parts.db
    }

    pub(crate) fn clock(&self) -> Clock {
        self.inner.parts.clock
    }

    /// The current time.
    pub(crate) fn now(&self) -> std::time::SystemTime {
        self.clock().now()
    }

    pub(crate) fn quotas(&self) -> &Quotas {
        &self.inner.quotas
    }

    pub(crate) fn images(&self) -> &Images {
        &self.inner.parts.images
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.inner.parts
    }

    /// Checks that the disk has room for something new of an account, and the account may take more of it.
    ///
    /// # Errors
    ///
    /// [`LimitError`].
    pub(crate) fn admit_to_disk(&self, account: &str) -> Result<(), LimitError> {
        self.parts().disk.admit(account, 0).map_err(|error| LimitError::of_disk(error, account))
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.inner.turns
    }

    pub(crate) fn followers(&self) -> &Turns {
        &self.inner.followers
    }

    pub(crate) fn catalogue(&self) -> &Turns {
        &self.inner.catalogue
    }

    /// The sessions of roles.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.inner.sessions
    }

    pub(crate) fn cursors(&self) -> &Cursors {
        &self.inner.cursors
    }

    /// The image that a request names.
    ///
    /// # Errors
    ///
    /// Those of [`ServiceConfig::image_name`].
    pub(crate) fn image(&self, caller: &Caller, identifier: Option<&str>) -> Result<ImageName, NameError> {
        self.config().image_name(&caller.account, identifier.unwrap_or_default())
    }

    /// The stored record of an image.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotFound`].
    pub(crate) fn image_record(&self, image: &ImageName) -> Result<ImageRecord, ServiceError> {
        let record = self.db().get(Table::Images, &records::image(&image.account, &image.name))?;
        let arn = || self.config().image_arn(&image.account, &image.name);
        Ok(record.ok_or_else(|| ImageError::NotFound(arn()))?)
    }

    /// The stored record of a version. `version` is the version as the request spells it.
    ///
    /// # Errors
    ///
    /// [`ImageError::VersionNotFound`].
    pub(crate) fn version_record(
        &self,
        image: &ImageName,
        version: &str,
    ) -> Result<VersionRecord, ServiceError> {
        let found = match ImageVersion::number_of(version) {
            Some(number) => {
                self.db().get(Table::Versions, &records::version(&image.account, &image.name, number))?
            }
            None => None,
        };
        found.ok_or_else(|| self.no_version(image, version))
    }

    /// The error for a version that does not exist, whether its image does or not.
    pub(crate) fn no_version(&self, image: &ImageName, version: &str) -> ServiceError {
        let arn = self.config().image_arn(&image.account, &image.name);
        ImageError::VersionNotFound { arn, version: version.to_owned() }.into()
    }
}
