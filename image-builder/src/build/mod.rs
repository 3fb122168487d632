//! The pipeline from an artifact to an image.
//!
//! ```text
//! fetch ─► builder microVM: context, buildah, root disk ─► microVM of the app: ready, snapshot ─► clone: validate ─► commit
//! ```
//!
//! * [`request`] – what is to be built; [`settings`] – where and with what
//! * [`event`] – what a build tells while it goes on; [`error`] – why it failed
//! * `workspace` – the folder of a build under way, and sweeping what killed builds have left
//! * `stage` – a microVM with a network, for one step
//! * `container` – the Dockerfile in the builder microVM; `config` – what the container image says
//! * `snapshot`, `validate`, `trial` – the app's own microVMs; `identity` – who they are told to be

mod config;
mod container;
pub mod error;
pub mod event;
mod identity;
mod lines;
mod pipeline;
pub mod request;
pub mod settings;
mod snapshot;
mod stage;
mod trial;
mod validate;
mod workspace;

pub use error::BuildError;
pub use event::{Event, LogStream, Step};
pub use pipeline::Builder;
pub use request::{BuildRequest, Platform};
pub use settings::Settings;
pub use trial::Trial;
