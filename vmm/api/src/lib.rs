//! What a monitor and its controllers must agree on.
//!
//! A controller starts monitors, sends them requests and keeps their snapshots; it links this crate and no device. The
//! monitor links it as well.
//!
//! * [`config`] – the configuration of a machine: values and open files, and their form as a message
//! * [`limits`] – the sizes that a microVM may have
//! * [`protocol`] – the versions of the control protocol
//! * [`scrub`] – what a daemon and the process that verifies files for it say to each other
//! * [`socket`] – the packets of the control protocol, which carry descriptors
//! * [`snapshot`] – the files of a snapshot
//! * [`steps`] – measures the duration of each step of an operation

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "tests cast small numbers that they chose themselves"
    )
)]

pub mod config;
pub mod limits;
pub mod protocol;
pub mod scrub;
pub mod snapshot;
pub mod socket;
pub mod steps;
