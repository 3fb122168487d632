//! Tests of the program `hearth` with a daemon that answers gRPC with scripted responses: output, requests, exit statuses.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;
mod browser;
mod curl;
mod daemon;
mod endpoint;
mod host;
mod images;
mod microvms;
mod piped;
mod pipes;
mod relay;
mod shell;
mod support;
mod terminal;
