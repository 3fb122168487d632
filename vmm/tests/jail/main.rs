//! The jail, wall by wall, around real processes.
//!
//! The tests start this very program as the monitor ([`inmate`]): it enters the jail exactly as the monitor
//! does, then does what it is told over the control socket, good or bad. [`cell`] starts it and looks at it
//! from outside. They need root. What this machine lacks is skipped by name; with `HEARTH_METAL=1` in the
//! environment nothing may be skipped.

#[cfg(test)]
mod cell;
#[cfg(test)]
mod cgroups;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod harmless;
#[cfg(test)]
mod inmate;
#[cfg(test)]
mod walls;
