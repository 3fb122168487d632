//! The operations: what a request must be, who may ask, and what is done.
//!
//! A front end ([`crate::api`]) finds out who calls ([`Caller`]), and calls one method per operation with the generated request
//! and response types. What goes wrong is a [`ServiceError`], whose accessors say everything that is told about it.
//!
//! Each operation goes the same way, in this order (docs/behaviour.md, "Order of checks"): rate ([`quota`]), constraints of the request
//! ([`constraints`]), syntax of names ([`names`]), permission ([`crate::access`]), the client token ([`idempotency`]), then
//! what it finds in the store.
//!
//! * [`crate::operation`] – the operations' names and their requests; [`config`] – what can be set
//! * [`error`] – what goes wrong
//! * [`constraints`], [`names`], [`quota`], [`idempotency`]
//! * [`cursor`], [`page`] – lists
//! * [`roles`] – who may give which role to microVMs and builds
//! * [`run`], [`microvms`], [`auth_tokens`] – operations on microVMs
//! * [`reads`], [`managed`], [`tags`] – images, their versions and builds; base images; tags
// What clients send is reckoned with here: nothing may overflow, and no index be out of range.
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
pub use names::{Connector, ImageName};
pub use quota::{Limits, Quota, Rate};

/// What a service is made of.
#[derive(Debug)]
pub struct Parts {
    /// The store.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// The drivers.
    pub microvms: Microvms,
    /// The images.
    pub images: Images,
    /// Where artifacts may come from.
    pub artifacts: ArtifactConfig,
    /// The base images.
    pub bases: Catalogue,
    /// Tokens for endpoints.
    pub tokens: Tokens,
    /// What roles stand for.
    pub roles: Arc<RoleProvider>,
    /// What can be set.
    pub config: ServiceConfig,
}

/// The operations. Copies are cheap and reach the same.
#[derive(Debug, Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    quotas: Quotas,
    cursors: Cursors,
    /// Calls with the same client token take turns.
    turns: Vec<Mutex<()>>,
}

/// Calls with client tokens that can be answered at a time, unless their tokens share a place.
const TURNS: usize = 1024;

impl Service {
    /// A service of these parts.
    ///
    /// # Errors
    ///
    /// The store's: the keys of cursors lie there.
    pub async fn new(parts: Parts) -> Result<Self, ServiceError> {
        let cursors = Cursors::open(&parts.db).await?;
        let turns = (0..TURNS).map(|_| Mutex::default()).collect();
        let quotas = Quotas::new(parts.config.limits.clone());
        Ok(Self { inner: Arc::new(Inner { parts, quotas, cursors, turns }) })
    }

    /// What can be set.
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

    /// The time.
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

    /// What every operation begins with: counts the call and checks the request.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Throttled`], [`ServiceError::Constraints`].
    pub fn begin<R: Request>(&self, caller: &Caller, request: &R) -> Result<(), ServiceError> {
        self.quotas().call(&caller.account, R::OPERATION)?;
        Constraints::of(self.config().profile).check(request)
    }

    /// Looks whether the caller may do something with everything there is.
    ///
    /// # Errors
    ///
    /// [`ServiceError::AccessDenied`].
    pub fn authorise(&self, caller: &Caller, operation: Operation) -> Result<(), ServiceError> {
        self.allow(caller.may(operation, None), caller, operation, || "*".to_owned())
    }

    /// Looks whether the caller may do something with an image, or with a microVM of it.
    ///
    /// # Errors
    ///
    /// [`ServiceError::AccessDenied`], also where the image is another account's.
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

    /// The image that a request names, if the caller may do this with it.
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

    /// An image's record.
    ///
    /// # Errors
    ///
    /// [`ServiceError::ImageNotFound`].
    pub fn image_record(&self, image: &ImageName) -> Result<ImageRecord, ServiceError> {
        let record = self.db().get(Table::Images, &records::image(&image.account, &image.name))?;
        record
            .ok_or_else(|| ServiceError::ImageNotFound(self.config().image_arn(&image.account, &image.name)))
    }

    /// A version's record. `version` is what a request says.
    ///
    /// # Errors
    ///
    /// [`ServiceError::VersionNotFound`], [`ServiceError::ImageNotFound`].
    pub fn version_record(&self, image: &ImageName, version: &str) -> Result<VersionRecord, ServiceError> {
        let found = match names::version_number(version) {
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
