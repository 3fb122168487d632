//! Base images: the files with which every microVM boots and every image is built.
//!
//! A base image is a folder of the *catalogue*, `CATALOGUE/<integer version>/`:
//!
//! | File | Content |
//! |---|---|
//! | `Image` | the guest's kernel |
//! | `initramfs.cpio` | `hearth-guest` as `/init`; with a modular kernel also modules, and `/modules.list` in load order |
//! | `builder.erofs` | the builder's root disk: Debian testing, arm64, with `dockerd`, packages unpacked and not configured |
//! | `containers.erofs` | the container bases: an image store that the builder finds at `/hearth` |
//! | `openssl.so` | the provider of OpenSSL that images get, so that clones share no random numbers |
//! | `base.json` | [`Manifest`]: digests and sizes of these, packages, container bases |
//!
//! A version appears as a whole or not at all and never changes again; the same inputs give the same bytes, and then no new
//! version is added. The Debian roots are *parts* ([`parts`]): they take minutes, change rarely and can be kept in a folder, so that
//! a build with a new `hearth-guest` takes seconds.
//!
//! * [`catalogue`] – finding, checking and adding versions; [`manifest`] – `base.json`
//! * [`build`] – a base image from a guest binary, a kernel, a provider of OpenSSL and the parts
//! * [`recipe`] – the packages; [`debian`] – Debian roots from packages, `bootstrap` – the call of mmdebstrap; [`emulation`] – running
//!   arm64 programs on other architectures, `twins` – avoiding most of that
//! * `builder_root`, `container`, `oci`, `store`, `erofs` – files made from the roots
//! * `kernel`, `modules`, `initramfs` – files that a guest boots; [`cpio`] – archives of the kernel's initramfs format; `elf` – checks of programs
//! * `programs`, `files` – other programs and files, with errors that explain what went wrong

#![forbid(unsafe_code)]

pub mod build;
pub mod catalogue;
pub mod cpio;
pub mod debian;
pub mod emulation;
pub mod manifest;
pub mod parts;
pub mod recipe;

mod bootstrap;
mod builder_root;
mod container;
mod elf;
mod erofs;
mod error;
mod files;
mod initramfs;
mod kernel;
mod modules;
mod oci;
mod programs;
mod store;
mod twins;

pub use build::{Built, build};
pub use catalogue::{Base, Catalogue};
pub use container::make_files;
pub use error::BaseError;
pub use kernel::KernelSource;
pub use manifest::Manifest;

/// Receives lines that describe the current step.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);
