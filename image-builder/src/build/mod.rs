//! The pipeline from an artifact to an image.
