//! The real platform on the metal: microVMs of a real image, without the daemon around it.
//!
//! They need root, KVM, nftables, cgroup version 2 and these variables, which `cargo xtask test` sets; without them they do nothing:
//! `HEARTH_VMM` (the monitor), `HEARTH_CATALOGUE` (base images), `HEARTH_EXAMPLES` (the folder `examples/` with the counter's
//! binary in its place). With `HEARTH_METAL` nothing may be skipped. One after another (`--test-threads=1`): they count what is
//! left on the host.
//!
//! * `support` – a host with an image, and what it must be left like
//! * `life` – launched, suspended, resumed, ended
//! * `restarts` – daemons that end and are killed, and what the next one finds
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod life;
mod restarts;
mod support;
