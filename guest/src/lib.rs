//! The guest OS of a microVM: what its PID 1, the binary `hearth-guest`, is made of.
//!
//! [`init`] makes a usable machine of what the kernel hands over, [`agent`] serves the host over vsock
//! (`proto/hearth/guest/v1/agent.proto`), [`container`] is what runs in processes of its own: second copies of the binary,
//! which are single-threaded, enter the app's namespaces and become the program that they were asked for.

pub mod agent;
pub mod container;
pub mod dns;
pub mod hooks;
pub mod init;
pub mod logs;
pub mod metadata;
pub mod refusal;
pub mod system;

pub use refusal::Refusal;
