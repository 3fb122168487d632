//! A task per microVM that executes the steps of its state machine, and recovery after a restart.
//!
//! * `microvms` – the handle of all microVMs, with launches and requests; [`error`] – why these are not accepted
//! * [`recover`] – the start of the daemon; [`retention`] – removes terminated microVMs and client tokens after some
//!   time; `enter` – how an exchange of the endpoint comes to a microVM
//! * `task` – the task of one microVM; `mailbox` – how others reach it; [`context`] – what all tasks share, and the
//!   observer that they notify
//! * [`gate`] – the state that a microVM's task and its endpoint share
//! * [`record`] – conversions between records, states and the platform's specs
//! * [`deadlines`] – the deadline of each effect
//! * [`capacity`] – accounting of the host's memory; `crate::usage` – of the memory of each account
//! * [`faults`] – points at which tests simulate a crash

pub mod capacity;
pub mod context;
pub mod deadlines;
mod enter;
pub mod error;
pub mod faults;
pub mod gate;
mod mailbox;
mod microvms;
pub mod record;
pub mod recover;
pub mod retention;
mod task;
#[cfg(test)]
mod tests;

pub use capacity::{Capacity, Full};
pub use error::{LaunchError, RequestError};
pub use microvms::{DriverConfig, Microvms};
