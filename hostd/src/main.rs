//! `hearthd`, the host daemon.
fn main() {}
