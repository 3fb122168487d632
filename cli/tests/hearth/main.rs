//! The program `hearth` against a daemon that speaks gRPC with scripted answers: what it prints, what it sends, how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;
mod browser;
mod curl;
mod daemon;
mod endpoint;
mod host;
mod images;
mod microvms;
mod relay;
mod shell;
mod support;
mod terminal;
