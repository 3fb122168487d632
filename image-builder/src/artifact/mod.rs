//! Fetching and checking what an image is built from.
