//! Tests of the mapping: against AWS's service model, and of whole requests.

mod exchange;
pub(crate) mod model;
