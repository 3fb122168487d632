//! The operations of the API: checks of requests, permissions, and the work itself.
//!
//! A front end ([`crate::api`]) authenticates the caller ([`Caller`]) and calls one method per operation, with the
//! generated request and response types. Failures are [`ServiceError`]s; their accessors return everything that a
//! client receives about them.
//!
//! Each operation runs the same steps in this order (docs/behaviour.md, "Order of checks"): rate limit ([`quota`]),
//! constraints of the request ([`constraints`]), syntax of names ([`names`]), permission ([`crate::access`]), client
//! token ([`idempotency`]), and then the contents of the store.
//!
//! * [`crate::operation`] – names of the operations and their request messages; [`config`] – settings
//! * [`error`] – errors
//! * [`constraints`], [`names`], [`quota`], [`idempotency`] – the steps before the work
//! * [`cursor`], [`page`] – pages of lists
//! * [`roles`] – permission to give a role to a microVM or a build
//! * [`run`], [`microvms`], [`auth_tokens`] – operations on microVMs
//! * [`reads`], [`managed`], [`tags`] – images, their versions and builds; base images; tags
// This module computes with values that clients send: arithmetic must not overflow, and indices must not be out of
// range.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::string_slice))]

pub mod auth_tokens;
pub mod config;
pub(crate) mod constraints;
pub mod cursor;
pub mod error;
pub(crate) mod idempotency;
mod images;
pub mod managed;
pub mod microvms;
pub mod names;
pub(crate) mod page;
pub mod quota;
pub mod reads;
pub(crate) mod roles;
pub mod run;
pub mod tags;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use hearth_base::Catalogue;
use hearth_host::roles::RoleProvider;
use hearth_image_builder::artifact::ArtifactConfig;
use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::store::v1::{ImageRecord, VersionRecord};
use tokio::sync::Mutex;

use self::constraints::Constraints;
use self::cursor::Cursors;
use self::quota::Quotas;
use crate::access::Caller;
use crate::builds::Images;
use crate::clock::Clock;
use crate::driver::Microvms;
use crate::records;
use crate::store::{Db, Table};
use crate::tokens::Tokens;

pub use crate::operation::{Operation, Request};
pub use config::{Profile, ServiceConfig};
pub use error::{Exception, Resource, ServiceError, Violation};
pub use quota::{Limits, Quota, Rate};

/// The components that a service uses.
#[derive(Debug)]
pub struct Parts {
    /// The store.
    pub db: Db,
    /// The clock.
    pub clock: Clock,
    /// The drivers of the microVMs.
    pub microvms: Microvms,
    /// The images.
    pub images: Images,
    /// The sources from which artifacts may be fetched.
    pub artifacts: ArtifactConfig,
    /// The base images.
    pub bases: Catalogue,
    /// Tokens for endpoints.
    pub tokens: Tokens,
    /// The provider of credentials for roles.
    pub roles: Arc<RoleProvider>,
    /// The settings.
    pub config: ServiceConfig,
}

/// The operations. Clones are cheap and share all state.
#[derive(Debug, Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    quotas: Quotas,
    cursors: Cursors,
    /// Locks that serialise calls with the same client token ([`Service::turn`]).
    turns: Vec<Mutex<()>>,
}

/// Number of these locks. Two client tokens whose hashes select the same lock are serialised too, without need.
const TURNS: usize = 1024;

impl Service {
    /// Creates a service from its components.
    ///
    /// # Errors
    ///
    /// Errors of the store, which holds the key that encrypts cursors.
    pub async fn new(parts: Parts) -> Result<Self, ServiceError> {
        let cursors = Cursors::open(&parts.db).await?;
        let turns = (0..TURNS).map(|_| Mutex::default()).collect();
        let quotas = Quotas::new(&parts.config.limits);
        Ok(Self { inner: Arc::new(Inner { parts, quotas, cursors, turns }) })
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
    #[must_use]
    pub fn now(&self) -> std::time::SystemTime {
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

    pub(crate) fn turns(&self) -> &[Mutex<()>] {
        &self.inner.turns
    }

    pub(crate) fn cursors(&self) -> &Cursors {
        &self.inner.cursors
    }

    /// The first step of every operation: counts the call against its rate limit and checks the constraints of the
    /// request.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Throttled`], [`ServiceError::Constraints`].
    pub fn begin<R: Request>(&self, caller: &Caller, request: &R) -> Result<(), ServiceError> {
        self.quotas().call(&caller.account, R::OPERATION)?;
        Constraints::of(self.config().profile).check(request)
    }

    /// Checks that the caller may perform an operation that concerns no single image.
    ///
    /// # Errors
    ///
    /// [`ServiceError::AccessDenied`].
    pub fn authorise(&self, caller: &Caller, operation: Operation) -> Result<(), ServiceError> {
        self.allow(caller.may(operation, None), caller, operation, || "*".to_owned())
    }

    /// Checks that the caller may perform an operation on an image, or on a microVM of that image.
    ///
    /// # Errors
    ///
    /// [`ServiceError::AccessDenied`], also where the image belongs to another account.
    pub fn authorise_image(
        &self,
        caller: &Caller,
        operation: Operation,
        image: &ImageName,
    ) -> Result<(), ServiceError> {
        let allowed = image.account == caller.account && caller.may(operation, Some(&image.name));
        self.allow(allowed, caller, operation, || self.config().image_arn(&image.account, &image.name))
    }

    fn allow(
        &self,
        allowed: bool,
        caller: &Caller,
        operation: Operation,
        resource: impl FnOnce() -> String,
    ) -> Result<(), ServiceError> {
        if allowed {
            return Ok(());
        }
        let principal = caller.principal.clone();
        Err(ServiceError::AccessDenied { principal, action: operation.name(), resource: resource() })
    }

    /// The image that a request names, if the caller may perform the operation on it.
    ///
    /// # Errors
    ///
    /// Those of [`ServiceConfig::image_name`], [`ServiceError::AccessDenied`].
    pub fn named_image(
        &self,
        caller: &Caller,
        operation: Operation,
        identifier: Option<&str>,
    ) -> Result<ImageName, ServiceError> {
        let image = self.config().image_name(&caller.account, identifier.unwrap_or_default())?;
        self.authorise_image(caller, operation, &image)?;
        Ok(image)
    }

    /// The stored record of an image.
    ///
    /// # Errors
    ///
    /// [`ServiceError::ImageNotFound`].
    pub fn image_record(&self, image: &ImageName) -> Result<ImageRecord, ServiceError> {
        let record = self.db().get(Table::Images, &records::image(&image.account, &image.name))?;
        record
            .ok_or_else(|| ServiceError::ImageNotFound(self.config().image_arn(&image.account, &image.name)))
    }

    /// The stored record of a version. `version` is the version as the request spells it.
    ///
    /// # Errors
    ///
    /// [`ServiceError::VersionNotFound`], [`ServiceError::ImageNotFound`].
    pub fn version_record(&self, image: &ImageName, version: &str) -> Result<VersionRecord, ServiceError> {
        let found = match ImageVersion::parse(version).map(ImageVersion::number) {
            Some(number) => {
                self.db().get(Table::Versions, &records::version(&image.account, &image.name, number))?
            }
            None => None,
        };
        if let Some(record) = found {
            return Ok(record);
        }
        self.image_record(image)?;
        let arn = self.config().image_arn(&image.account, &image.name);
        Err(ServiceError::VersionNotFound { arn, version: version.to_owned() })
    }
}
