//! What happens to microVMs and images, as pure state machines: no I/O, no clock, no locks.
//!
//! * [`microvm`] – a microVM's states, events and effects
//! * [`table`] – what each event does in each phase
//! * [`recovery`] – what a restarted daemon does with what it finds
//! * [`reason`] – the sentences of `stateReason`
//! * [`image`] – images and their versions

pub mod image;
pub mod microvm;
pub mod reason;
pub mod recovery;
mod table;

#[cfg(test)]
mod tests;
