//! Tests of [`Images`] on a store in memory, with a scripted builder and a double of the host.

pub(crate) mod double;
mod faults;
mod memory;
mod operations;
