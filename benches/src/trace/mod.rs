//! What guests cost their host: exits and stage-2 faults, from the host kernel's tracepoints.
//!
//! ```text
//!  begin ──► kvm_entry … kvm_exit, kvm_guest_fault … kvm_entry … mark "agent" … mark "hook" ──► end
//!            └──────────────────── step "agent" ──────────────────────┘└─ step "hook" ─┘
//! ```
//!
//! * [`tracefs`] – a trace of its own: events on and off, marks between steps
//! * [`line`] – a line of it
//! * [`fault`] – what a fault was about, by the syndrome (ESR_EL2)
//! * [`profile`] – counts and times of a step
//! * [`rounds`] – those of several rounds, as figures
//!
//! Tracing costs time, which the times here contain: counts are exact, times compare steps and kinds with one another. Lines are text that
//! other programs of the host can write into (names of tasks, marks): what is not understood is counted, and nothing else.

pub mod fault;
pub mod line;
pub mod profile;
pub mod rounds;
pub mod tracefs;
