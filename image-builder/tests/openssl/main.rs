//! The OpenSSL of images asks the kernel for random numbers: the provider, and the script of the builder that gives it to them, with the
//! OpenSSL of this machine.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod configuration;
mod provider;
mod support;
