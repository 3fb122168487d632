//! Tests of the table of constraints.

mod bounds;
mod model;
mod sweep;

use super::*;
