//! Networks of microVMs with a real kernel and real nft: what a guest reaches, what it does not reach, and that nothing is left.
//!
//! Each test has a host of its own in namespaces of its thread, so it runs on any Linux as root where `nft` and `ip`
//! are installed (elsewhere it reports what is missing), and on the metal.
//!
//! Tests detect a dropped packet without waiting: packets stay in order, so it would have arrived before the
//! permitted one that is sent after it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod cleaning;
mod joined;
mod reach;
mod shares;
mod support;
mod walls;
