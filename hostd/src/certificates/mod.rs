//! Certificates that this host makes and reads: of the API (`hearthd init`) and of endpoints.
//!
//! * [`authority`] – a private certificate authority, and the certificates that it signs
//! * [`read`] – the contents of a certificate
//! * [`files`] – files that are written completely or not at all

pub mod authority;
pub mod files;
pub mod read;
