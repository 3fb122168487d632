//! The image builder: from a code artifact to a memory and disk snapshot.
//!
//! * [`artifact`] – fetching and checking what an image is built from
//! * [`build`] – the pipeline
//! * [`failure`] – why a build failed, in the words of its `stateReason`
//! * [`image`] – the folder that comes out of it

pub mod artifact;
pub mod build;
pub mod failure;
pub mod image;
