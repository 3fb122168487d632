//! The app's output: read from its pipes ([`reader`]), cut into lines ([`lines`]), kept until the host has stored them
//! ([`ring`]).
//!
//! The memory for records is bounded. When it is full, the pipes are not read any more, and the app's writes block.

pub mod lines;
pub mod reader;
pub mod ring;

pub use ring::Ring;
