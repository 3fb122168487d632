//! The pipeline from an artifact to an image.
//!
//! ```text
//! fetch ─► builder microVM: context, BuildKit, root disk ─► microVM of the app: ready, snapshot ─► clone: validate ─► commit
//! ```
//!
//! * [`request`] – the image to build; [`settings`] – the host's part of the configuration
//! * [`event`] – events of a build under way; [`error`] – why it failed
//! * `workspace` – the folder of a build under way, and removing what killed builds have left
//! * `stage` – a microVM with a network, for one step
//! * [`uids`] – user ids of monitors; `record` – what of a step's microVM lies outside its folder
//! * `container` – the Dockerfile in the builder microVM; `config` – the container image's configuration
//! * [`mirrors`] – where images are asked for before Docker Hub
//! * `progress` – which step of the Dockerfile fails, and why; `pull` – images that cannot be pulled; `memory` – processes that are
//!   killed because there is no memory left
//! * `snapshot`, `validate`, `trial` – the app's own microVMs; `identity` – their identities

mod config;
mod container;
pub mod error;
pub mod event;
mod identity;
mod lines;
mod memory;
pub mod mirrors;
mod pipeline;
mod progress;
mod pull;
mod record;
pub mod request;
pub mod settings;
mod snapshot;
mod stage;
mod tail;
mod trial;
pub mod uids;
mod validate;
mod workspace;

pub use error::BuildError;
pub use event::{Event, LogStream, Step};
pub use pipeline::Builder;
pub use request::{BuildRequest, Platform};
pub use settings::Settings;
pub use trial::Trial;
pub use uids::{UserId, UserIds};
pub use workspace::{builds_in, caches_in, sweep};
