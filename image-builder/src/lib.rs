//! The image builder: from a code artifact to a memory and disk snapshot.
//!
//! * [`artifact`] – fetching and checking artifacts
//! * [`build`] – the pipeline
//! * [`failure`] – why a build failed, in the sentences of its `stateReason`
//! * [`image`] – the folder of an image

#![forbid(unsafe_code)]

pub mod artifact;
pub mod build;
pub mod failure;
pub mod image;
