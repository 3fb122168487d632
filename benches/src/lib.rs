//! What the programs that measure share.
//!
//! * [`report`] – figures, as a table for people and as JSON for programs

pub mod report;
