//! The operations, on a store in memory.
