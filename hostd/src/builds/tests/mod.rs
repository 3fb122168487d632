//! Tests of [`Images`] on a store in memory, with a scripted builder and a platform that only has files.

pub(crate) mod double;
mod faults;
mod operations;
