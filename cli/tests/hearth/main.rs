//! The program `hearth` against a daemon that speaks gRPC with scripted answers: what it prints, what it sends, how it ends.

mod daemon;
mod host;
mod images;
mod microvms;
mod support;
