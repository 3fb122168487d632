//! Shared by the measuring programs.
//!
//! * [`report`] – figures, as a table for people and as JSON for programs
//! * [`trace`] – the cost of guests for their host, from its tracepoints

#![forbid(unsafe_code)]

pub mod report;
pub mod trace;
