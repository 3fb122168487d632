//! Who calls, and what they may.
//!
//! * [`caller`] – somebody known, with an account and policies
//! * [`policy`] – actions × names of images

pub mod caller;
pub mod policy;

pub use caller::Caller;
pub use policy::Policy;
