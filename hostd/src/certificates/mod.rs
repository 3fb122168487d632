//! Certificates that this host makes and reads: of the API (`hearthd init`) and of endpoints.
//!
//! * [`authority`] – an authority of one's own, and what it signs
//! * [`read`] – what is in a certificate
//! * [`files`] – files that appear as a whole or not at all

pub mod authority;
pub mod files;
pub mod read;
