//! End-to-end tests: a real `hearthd` process, its API and microVMs, and what happens to microVMs when the daemon is
//! killed.
//!
//! The tests need root, KVM, nftables and these variables, which `cargo xtask test` sets; without them they are
//! skipped: `HEARTH_HOSTD` (the daemon), `HEARTH_VMM` (the monitor), `HEARTH_CATALOGUE` (base images),
//! `HEARTH_EXAMPLES` (the folder `examples/` including the counter's binary), `HEARTH_GOLDEN` (what earlier releases
//! have left). With `HEARTH_METAL` nothing may be skipped; with `HEARTH_FULL` the daemon is killed at each of its fault
//! points, instead of some.
//!
//! All tests share one data folder, so that images are built once. Each test runs its own daemon on it, one test
//! after the other, and leaves no trace of a microVM.
//!
//! * [`support`] – the daemon, requests, and checks of what it leaves behind
//! * `lifecycle` – launches, suspends, resumes and terminations
//! * `endpoint` – requests from outside to apps
//! * `endings` – microVMs that exit by themselves, or are terminated
//! * `images` – images, versions, builds, and microVMs that outlive their images
//! * `full_disk` – the daemon on a disk that is full
//! * `outages` – the daemon is killed and started again
//! * `scrub` – bits that flip on the disk
//! * `logs` – the app's output
//! * `silent` – guests and monitors that do not respond
//! * `soak` – an honest account beside hostile guests and clients
//! * `extremes` – calls with extreme values
//! * `access` – TLS, API keys, accounts, reflection
//! * `goldens` – what earlier releases have left on a host
//! * `projects` – public projects, as others write them

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod endings;
mod endpoint;
mod extremes;
mod full_disk;
mod goldens;
mod images;
mod lifecycle;
mod logs;
mod outages;
mod projects;
mod scrub;
mod silent;
mod soak;
mod support;
