//! An audit line per call.
