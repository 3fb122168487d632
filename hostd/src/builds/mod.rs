//! Images, their versions and builds.
