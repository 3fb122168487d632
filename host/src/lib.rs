//! Runs microVMs on top of a monitor process: used by the image builder and by the daemon.
//!
//! * [`agent`] – the client of the agent inside the guest
//! * [`dns`] – answers the guest's name queries by asking the host's resolvers
//! * [`groups`] – control groups of microVMs
//! * [`http`] – shared by the HTTP clients of this process
//! * [`limits`] – how much a microVM may read, write, receive and send
//! * [`microvm`] – a monitor process with disks, network and agent, booted or restored
//! * [`network`] – a network namespace with a tap per microVM, and its packet filter
//! * [`roles`] – the credentials of a role ARN
//! * [`shell`] – programs beside the app: commands and login shells

#![forbid(unsafe_code)]

pub mod agent;
pub mod dns;
pub mod groups;
pub mod http;
pub mod limits;
pub mod microvm;
pub mod network;
pub mod roles;
pub mod shell;
