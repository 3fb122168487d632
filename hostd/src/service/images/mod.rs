//! Operations that change images. They start the work; [`crate::builds::Images`] carries it out.
//!
//! * `configuration` – configuration of a version: checks and defaults
//! * `change` – CreateMicrovmImage, UpdateMicrovmImage; `versions` – UpdateMicrovmImageVersion; `delete` – the
//!   deletions
//! * `answer` – responses and errors

mod answer;
mod change;
mod configuration;
mod delete;
#[cfg(test)]
mod tests;
mod versions;
