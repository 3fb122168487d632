//! What the programs that measure share.
//!
//! * [`report`] – figures, as a table for people and as JSON for programs
//! * [`trace`] – what guests cost their host, from its tracepoints

pub mod report;
pub mod trace;
