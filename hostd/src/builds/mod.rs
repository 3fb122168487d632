//! Images, their versions and builds: what drives [`crate::lifecycle::image`].
//!
//! ```text
//!  request ─► Images ── one batch per transition ──► store
//!               │  └─ a task per build: slot ─► Build ─► outcome ─► store
//!               └──── a task per deletion ─► store ─► files
//! ```
//!
//! * [`images`] – the handle: what can be asked of images, and recovery
//! * `state` – an image with its versions as the store has them; `run` – a build; `end` – deletions; `recovery`
//! * `artifacts` – the files of builds, and who uses them
//! * [`build`] – what builds are made by, and who is told; [`real`] – the image builder
//! * [`request`] – from a version's configuration to what the builder wants; [`log`] – where its output goes
//! * [`progress`] – what a build has told, for those who watch it
//! * [`generation`] – the processor that builds are for
//!
//! Changes of one image happen one after another, and each is durable before anything follows from it: an answer, a build, a file
//! that goes. Whatever the daemon is killed at, the next one finds in the store what there is to do:
//!
//! | Found | Done |
//! |---|---|
//! | version PENDING or IN_PROGRESS | it is built from the start, under the same number and build id |
//! | version or image DELETING | the deletion is finished |
//! | retired artifact that nobody uses | its files are removed |

mod artifacts;
pub mod build;
mod end;
pub mod generation;
pub mod images;
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
pub use images::{Images, ImagesError, Parts, Quota, Settings};
pub use progress::Watch;
