//! The vocabulary that the client, the daemon and the image builder share. This crate does no I/O and knows no wire
//! format: it has types, their text forms, and the rules that these texts follow.
//!
//! * [`account`], [`id`] – accounts and ids
//! * [`arn`] – what all ARNs have in common; [`image`], [`connector`], [`role`] – what ARNs name
//! * [`build`] – image builds
//! * [`hooks`] – lifecycle hooks of apps
//! * [`operation`] – the operations of the API, by name
//! * [`shape`] – memory classes
//! * [`text`] – what others wrote, made harmless for whoever reads it
//! * [`version`] – versions of images

#![forbid(unsafe_code)]

pub mod account;
pub mod arn;
pub mod build;
pub mod connector;
pub mod hooks;
pub mod id;
pub mod image;
pub mod operation;
pub mod role;
pub mod shape;
pub mod text;
pub mod version;
