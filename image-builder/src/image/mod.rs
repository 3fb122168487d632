//! The folder that an image is.
