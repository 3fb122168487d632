//! What happens to microVMs, as pure state machines.
