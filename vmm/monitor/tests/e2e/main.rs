//! Tests with real microVMs on a real KVM: the monitor runs in its jail, and the client drives it as a controller does.
//!
//! The tests run on ARM64 metal as root; `cargo xtask test` copies them there together with the files that they need.
//! Environment variables contain the paths: `HEARTH_VMM` (the monitor), `HEARTH_GUEST_KERNEL`, `HEARTH_GUEST_INITRD`
//! (the test guest, see the package `hearth-test-guest`), `HEARTH_HOSTILE_IMAGE`, `HEARTH_EXT4_IMAGE` (an empty file
//! system) and `HEARTH_E2FSCK` (which checks it). If `HEARTH_VMM` is not set there is nothing to test, and each test
//! reports that. With `HEARTH_FULL`, tests that depend on chance are repeated more often.
//!
//! No test sleeps, except those in `clocks`, which are about the passing of time. The tests wait for the events that
//! they expect, and fail after [`support::TEST_TIMEOUT`].
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
mod limits;
mod memory;
mod network;
mod refusals;
mod snapshots;
mod streams;
mod support;
mod work;
mod working_set;
