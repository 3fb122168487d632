//! Images, their versions and builds: the driver of [`crate::lifecycle::image`].
//!
//! ```text
//!  request ─► Images ── one batch per transition ──► store
//!               │  └─ a task per build: turn ─► Build ─► outcome ─► store
//!               └──── a task per deletion ─► store ─► files
//! ```
//!
//! * [`images`] – the handle with the operations on images; `recovery` – resumes unfinished work
//! * `run` – a build; `deletion` – deletions
//! * `state` – an image with its versions in the store, and changes of it
//! * `context` – what all operations and tasks share; `key` – names of images, and their locks; `error` – why an
//!   operation fails
//! * `files` – the files of builds, and the microVMs that use them
//! * [`build`] – the interfaces of builders and observers; [`builder`] – the image builder
//! * [`request`] – converts a version's configuration into a build request; [`log`] – log streams of builds
//! * [`progress`] – the events of a build, for clients that watch it
//! * [`generation`] – the processor that builds are for
//!
//! Changes of one image happen one after another, and each is durable before its consequences begin: a response, a
//! build, the removal of a file. Wherever the daemon is killed, the next one finds in the store what has to be done:
//!
//! | Found | Action |
//! |---|---|
//! | version PENDING or IN_PROGRESS | it is built from the start, under the same number and build id; those that had begun come first, then the oldest |
//! | version or image DELETING | the deletion is finished |
//! | retired build that no microVM uses | its files are removed |

pub mod build;
pub mod builder;
mod context;
mod deletion;
mod error;
mod files;
pub mod generation;
pub mod images;
mod key;
pub mod log;
pub mod progress;
mod recovery;
pub mod request;
mod run;
mod state;
#[cfg(test)]
pub(crate) mod tests;

pub use build::{Build, BuildFailure, BuildLog, BuildObserver, Job};
pub use context::{Parts, Settings};
pub use error::{ImageQuota, ImagesError};
pub use images::Images;
pub use progress::Watch;
