//! The drivers with a scripted platform.
