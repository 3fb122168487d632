//! The cost of guests for their host: exits and stage-2 faults, from the host kernel's tracepoints.
//!
//! ```text
//!  begin ──► kvm_entry … kvm_exit, kvm_guest_fault … kvm_entry … mark "agent" … mark "hook" ──► end
//!            └──────────────────── step "agent" ──────────────────────┘└─ step "hook" ─┘
//! ```
//!
//! * [`tracefs`] – a separate trace: events on and off, marks between steps
//! * [`line`] – a line of the trace
//! * [`fault`] – the kind of a fault, by the syndrome (ESR_EL2)
//! * [`profile`] – counts and times of a step
//! * [`rounds`] – profiles of several rounds, as figures
//!
//! Tracing takes time, which the times here contain: counts are exact, times serve to compare steps and kinds with one another. Lines are
//! text that other programs of the host can write into (names of tasks, marks): lines that cannot be parsed are only counted.

pub mod fault;
pub mod line;
pub mod profile;
pub mod rounds;
pub mod tracefs;
