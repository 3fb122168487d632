//! Real builds on the metal: from a folder or zip to an image, and microVMs of it.
//!
//! They need root, KVM, nftables and these variables, which `cargo xtask test` sets; without them they do nothing:
//! `HEARTH_VMM` (the monitor), `HEARTH_CATALOGUE` (base images), `HEARTH_EXAMPLES` (the folder `examples/` with the counter's
//! binary in its place), `HEARTH_IMAGE_BUILDER` (the program, for what is killed). With `HEARTH_METAL` nothing may be skipped.
//!
//! * [`support`] – a host for builds, what it must be left like, requests to apps
//! * `applications` – the two examples, to their snapshots and back
//! * `failures` – builds that must fail, and why
//! * `isolation` – what a build can reach
//! * `registry` – a container image instead of a Dockerfile
//! * `crashes` – builders that are killed
//! * `clones` – what microVMs of an image do not know of its build
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod applications;
mod clones;
mod crashes;
mod failures;
mod isolation;
mod registry;
mod support;
