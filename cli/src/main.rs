//! `hearth`: the command-line client of hearthd.
fn main() {}
