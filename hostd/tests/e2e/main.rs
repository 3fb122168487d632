//! The daemon on the metal: a real `hearthd` process, its API, microVMs, and what happens to them when it is killed.
//!
//! The tests need root, KVM, nftables and these variables, which `cargo xtask test` sets; without them they do nothing:
//! `HEARTH_HOSTD` (the daemon), `HEARTH_VMM` (the monitor), `HEARTH_CATALOGUE` (base images), `HEARTH_EXAMPLES` (the folder
//! `examples/` with the counter's binary in its place). With `HEARTH_METAL` nothing may be skipped; with `HEARTH_FULL` the
//! daemon is killed at each of its fault points, instead of some.
//!
//! All tests share one state: images are built once. Each has a daemon of its own over it, one after the other, and
//! leaves neither a microVM nor anything of one.
//!
//! * [`support`] – the daemon, requests, what it must leave behind
//! * `lifecycle` – launch, suspend, resume, terminate
//! * `endpoint` – requests from outside to apps
//! * `endings` – microVMs that end by themselves, or are made to
//! * `images` – images, versions, builds, and microVMs that outlive them
//! * `outages` – the daemon killed and started again
//! * `logs` – what the app said
//! * `silent` – guests and monitors that answer nobody
//! * `extremes` – calls that make no sense
//! * `access` – TLS, API keys, accounts, reflection
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod endings;
mod endpoint;
mod extremes;
mod images;
mod lifecycle;
mod logs;
mod outages;
mod silent;
mod support;
