//! What goes wrong with networks.

use std::io;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::config::MTUS;
use super::{MAX_NAME, PREFIX};

/// Why a network could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The name cannot be one of a network.
    #[error("{0:?} is no name of a network: give 1 to {MAX_NAME} letters, digits, '-' and '_'")]
    Name(String),
    /// The configured MTU is out of range.
    #[error("an MTU of {0} bytes is out of range: configure {low} to {high}", low = MTUS.start(), high = MTUS.end())]
    Mtu(u16),
    /// The pool is not free.
    #[error(
        "the pool {pool} for microVMs overlaps {network}, which this host is connected to; configure another"
    )]
    PoolInUse {
        /// The pool.
        pool: Ipv4Net,
        /// The network of the host.
        network: Ipv4Net,
    },
    /// There is no slot left.
    #[error(
        "all {slots} address pairs of the pool {pool} are in use: end microVMs, sweep leftovers (interfaces \
         `{PREFIX}*`), or configure a larger pool"
    )]
    PoolIsFull {
        /// The pool.
        pool: Ipv4Net,
        /// How many there are.
        slots: u32,
    },
    /// The kernel refused something.
    #[error("cannot {what}: {source}; networks need root (CAP_NET_ADMIN and CAP_SYS_ADMIN) on the host")]
    System {
        /// What was to be done.
        what: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// rtnetlink refused something.
    #[error("the kernel refused to {what}: {source}")]
    Netlink {
        /// What was to be done.
        what: String,
        /// What it answered.
        source: io::Error,
    },
    /// The tap cannot be had.
    #[error(transparent)]
    Tap(#[from] hearth_vmm::tap::TapError),
    /// nft cannot be run.
    #[error("cannot run {}: {source}; install nftables, or configure the path of nft", path.display())]
    NoNft {
        /// The program.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// nft did not take the rules.
    #[error("{} refused the rules ({status}): {message}", path.display())]
    Rules {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The beginning of what it said.
        message: String,
    },
}

/// Adds to an error of the system what was to be done.
pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::System { what, source }
}

/// Adds to an answer of rtnetlink what was to be done.
pub(super) fn refused(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Netlink { what, source }
}
