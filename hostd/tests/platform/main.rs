//! Tests of the real platform on the metal: microVMs of a real image, without a daemon.
//!
//! The tests need root, KVM, nftables, cgroup version 2 and these variables, which `cargo xtask test` sets; without
//! them they are skipped: `HEARTH_VMM` (the monitor), `HEARTH_CATALOGUE` (base images), `HEARTH_EXAMPLES` (the folder
//! `examples/` including the counter's binary). With `HEARTH_METAL` nothing may be skipped. They run one after
//! another (`--test-threads=1`), since they count what is left on the host.
//!
//! * `support` – a host with an image, and checks of what is left on it
//! * `life` – microVMs are launched, suspended, resumed and terminated
//! * `restarts` – daemons that exit or are killed, and what the next one finds

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod life;
mod restarts;
mod support;
