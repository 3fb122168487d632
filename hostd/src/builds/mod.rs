//! Images, their versions and builds: the driver of [`crate::lifecycle::image`].
//!
//! ```text
//!  request ─► Images ── one batch per transition ──► store
//!               │  └─ a task per build: slot ─► Build ─► outcome ─► store
//!               └──── a task per deletion ─► store ─► files
//! ```
//!
//! * [`images`] – the handle with the operations on images; `recovery` – resumes unfinished work
//! * `run` – a build; `end` – deletions
//! * `state` – an image with its versions in the store, and changes of it
//! * `context` – what all operations and tasks share; `key` – names of images, and their locks; `error` – why an
//!   operation fails
//! * `artifacts` – the files of builds, and the microVMs that use them
//! * [`build`] – the interfaces of builders and reports; [`real`] – the image builder
//! * [`request`] – converts a version's configuration into a build request; [`log`] – log streams of builds
//! * [`progress`] – the events of a build, for clients that watch it
//! * [`generation`] – the processor that builds are for
//!
//! Changes of one image happen one after another, and each is durable before its consequences begin: a response, a
//! build, the removal of a file. Wherever the daemon is killed, the next one finds in the store what has to be done:
//!
//! | Found | Action |
//! |---|---|
//! | version PENDING or IN_PROGRESS | it is built from the start, under the same number and build id |
//! | version or image DELETING | the deletion is finished |
//! | retired artifact that no microVM uses | its files are removed |

mod artifacts;
pub mod build;
mod context;
mod end;
mod error;
pub mod generation;
pub mod images;
mod key;
pub mod log;
pub mod progress;
pub mod real;
mod recovery;
pub mod request;
mod run;
mod state;
#[cfg(test)]
pub(crate) mod tests;

pub use build::{Build, BuildFailure, Job, LogSink, Report};
pub use context::{Parts, Settings};
pub use error::{ImagesError, Quota};
pub use images::Images;
pub use progress::Watch;
