//! Tests of the table of constraints.

mod model;
mod sweep;

use super::*;
