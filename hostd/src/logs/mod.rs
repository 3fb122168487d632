//! Log groups and streams on disk.
