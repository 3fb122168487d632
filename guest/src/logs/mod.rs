//! What the app writes: read from its pipes ([`reader`]), cut into lines ([`lines`]), kept until the host has stored them
//! ([`ring`]).
//!
//! Records are bounded in memory. When they are full, the pipes are not read any more, and the app's writes wait.

pub mod lines;
pub mod reader;
pub mod ring;

pub use ring::Ring;
