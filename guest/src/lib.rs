//! The guest OS of a microVM: the library of its PID 1, the binary `hearth-guest`.
//!
//! [`init`] initialises the machine that the kernel has booted, [`agent`] serves the host over vsock
//! (`proto/hearth/guest/v1/agent.proto`), and [`container`] runs in separate processes: second copies of the binary,
//! which are single-threaded, enter the app's namespaces and execute the requested program.

pub mod agent;
pub mod container;
pub mod dns;
pub mod generation;
pub mod hooks;
pub mod init;
pub mod logs;
pub mod metadata;
mod ports;
pub mod refusal;
pub mod system;

pub use refusal::Refusal;
