//! The lifecycles of microVMs and images, as pure state machines: no I/O, no clock, no locks.
//!
//! * [`microvm`] – a microVM's states, requests, events and effects
//! * [`table`] – the transition table: what each event does in each phase
//! * [`recovery`] – how a restarted daemon continues from what it finds
//! * [`reason`] – the sentences of `stateReason`
//! * [`image`] – images and their versions

pub mod image;
pub mod microvm;
pub mod reason;
pub mod recovery;
pub mod table;

#[cfg(test)]
mod tests;
