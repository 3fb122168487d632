//! Tests of the jail, wall by wall, with real processes.
//!
//! The tests start this same program as the monitor ([`inmate`]): it enters the jail exactly as the monitor does, then
//! executes the commands that it receives over the control socket, allowed or not. [`cell`] starts it and inspects it
//! from outside. The tests need root. What this machine lacks is skipped by name; with `HEARTH_METAL=1` in the
//! environment nothing may be skipped.

#[cfg(test)]
mod cell;
#[cfg(test)]
mod cgroups;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod folder;
#[cfg(test)]
mod harmless;
#[cfg(test)]
mod helpers;
#[cfg(test)]
mod inmate;
#[cfg(test)]
mod walls;
