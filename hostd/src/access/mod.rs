//! Who calls, and what they may.
//!
//! * [`config`] – what can be set, and whether that is safe
//! * [`identify`] – from a connection and credentials to a caller
//! * [`caller`] – somebody known, with an account and policies
//! * [`policy`] – actions × names of images

pub mod caller;
pub mod config;
pub mod identify;
pub mod policy;

pub use caller::Caller;
pub use config::{AccessConfig, AccessError};
pub use identify::{Access, Peer};
pub use policy::Policy;
