//! Real builds on the metal: from a folder or zip to an image, and microVMs of it.
//!
//! The tests need root, KVM, nftables and these variables, which `cargo xtask test` sets; without them, they are skipped:
//! `HEARTH_VMM` (the monitor), `HEARTH_CATALOGUE` (base images), `HEARTH_EXAMPLES` (the folder `examples/` with the counter's
//! binary in its place), `HEARTH_IMAGE_BUILDER` (the program, for tests that kill it). With `HEARTH_METAL`, nothing may be skipped; with
//! `HEARTH_FULL`, there are more builds.
//!
//! * [`support`] – a host for builds, checks for leftovers, requests to apps
//! * `applications` – builds of the two examples, and restores from their snapshots
//! * `failures` – builds that must fail, and why
//! * `disks` – what of files the root disk keeps
//! * `isolation` – addresses that a build can reach
//! * `registry` – a container image instead of a Dockerfile
//! * `crashes` – builders that are killed
//! * `clones` – microVMs of an image do not know anything of its build

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod applications;
mod clones;
mod crashes;
mod disks;
mod dockerfiles;
mod failures;
mod isolation;
mod registry;
mod support;
