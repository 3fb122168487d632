//! What happens to microVMs, as pure state machines.

pub mod image;
