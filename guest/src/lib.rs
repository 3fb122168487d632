//! The guest OS of a microVM: what its PID 1, the binary `hearth-guest`, is made of.
