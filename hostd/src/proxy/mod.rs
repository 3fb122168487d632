//! Endpoints: `https://UUID.DOMAIN`, which lead to the apps of microVMs.
//!
//! * [`config`] – `[endpoint]` of the configuration
//! * [`tls`] – TLS, and the certificate that is served; [`ca`] – the authority that signs it unless told otherwise;
//!   [`acme`] – one that an ACME authority issues
//! * [`dns`] – answers for the domain

pub mod acme;
pub mod ca;
pub mod config;
pub mod dns;
pub mod tls;
