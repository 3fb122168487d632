//! The image builder: from a code artifact to a memory and disk snapshot, and the base images that this needs.
//!
//! * [`artifact`] – fetching and checking what an image is built from
//! * [`base`] – base images: kernel, initramfs, the builder's root disk, container bases
//! * [`build`] – the pipeline
//! * [`failure`] – why a build failed, in the words of its `stateReason`
//! * [`image`] – the folder that comes out of it

pub mod artifact;
pub mod base;
pub mod build;
pub mod failure;
pub mod image;
