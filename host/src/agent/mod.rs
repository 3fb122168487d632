//! The client of the agent inside a guest (`hearth-guest`).
