//! Real microVMs on a real KVM: the monitor in its jail, driven through the client as a controller would.
//!
//! The tests run on ARM64 metal as root; `cargo xtask test` brings them there together with the files that
//! they need, named by the environment: `HEARTH_VMM` (the monitor), `HEARTH_GUEST_KERNEL`,
//! `HEARTH_GUEST_INITRD` (the test guest, see the package `hearth-test-guest`), `HEARTH_HOSTILE_IMAGE`,
//! `HEARTH_EXT4_IMAGE` (an empty file system) and `HEARTH_E2FSCK` (which checks it).
//! Where `HEARTH_VMM` is not set there is nothing to test, and each test says so. `HEARTH_FULL` repeats what
//! depends on chance more often.
//!
//! Nothing here waits for time to pass, but for `clocks`, which are about that: the tests wait for what is to happen,
//! and give up after [`support::PATIENCE`].
#![cfg(target_arch = "aarch64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod bad_input;
mod cancels;
mod clocks;
mod clones;
mod command_line;
mod controllers;
mod cpus;
mod crashes;
mod diffs;
mod disks;
mod folders;
mod goldens;
mod hostile;
mod lifecycle;
mod memory;
mod network;
mod refusals;
mod snapshots;
mod streams;
mod support;
mod work;
mod working_set;
