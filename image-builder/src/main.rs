//! `hearth-image-builder`: builds base images and images by hand.

fn main() {}
