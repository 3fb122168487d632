//! Operations that change images. They start the work; [`crate::builds::Images`] carries it out.
//!
//! * `configuration` – configuration of a version: checks and defaults
//! * `change` – CreateMicrovmImage, UpdateMicrovmImage; `versions` – UpdateMicrovmImageVersion; `delete` – the
//!   deletions
//! * `response` – responses and errors

mod change;
mod configuration;
mod delete;
mod response;
#[cfg(test)]
mod tests;
mod versions;
