//! Operations that change images. What they begin is done by [`crate::builds::Images`].
//!
//! * `configuration` – what a version is to be built from: checks and defaults
//! * `change` – CreateMicrovmImage, UpdateMicrovmImage; `versions` – UpdateMicrovmImageVersion; `delete` – the deletions
//! * `answer` – answers and errors

mod answer;
mod change;
mod configuration;
mod delete;
#[cfg(test)]
mod tests;
mod versions;
