//! The agent in a real guest: a microVM with `hearth-guest` as its init and a root disk with busybox, on ARM64 metal with KVM.
//!
//! Needs `HEARTH_VMM`, `HEARTH_GUEST_KERNEL`, `HEARTH_GUEST_OS` (an initramfs with `hearth-guest` as `/init`) and
//! `HEARTH_GUEST_ROOT` (an ext4 image with busybox, see `xtask/src/guest_root.rs`); without `HEARTH_VMM` all tests are skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed"
)]

mod archives;
mod container;
mod freezing;
mod hooks;
mod identity;
mod limits;
mod logs;
mod probe;
mod processes;
mod support;
