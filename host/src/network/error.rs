//! Errors of networks.

use std::io;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::config::MTUS;
use super::{MAX_NAME, PREFIX};

/// Why a network could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The name is not valid for a network.
    #[error("{0:?} is no name of a network: give 1 to {MAX_NAME} letters, digits, '-' and '_'")]
    Name(String),
    /// The configured MTU is out of range.
    #[error("an MTU of {0} bytes is out of range: configure {low} to {high}", low = MTUS.start(), high = MTUS.end())]
    Mtu(u16),
    /// The pool overlaps a network of the host.
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
        /// How many slots the pool has.
        slots: u32,
    },
    /// A system call or file operation failed.
    #[error("cannot {what}: {source}; networks need root (CAP_NET_ADMIN and CAP_SYS_ADMIN) on the host")]
    System {
        /// The operation, for the message.
        what: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// rtnetlink refused a request.
    #[error("the kernel refused to {what}: {source}")]
    Netlink {
        /// The operation, for the message.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The tap cannot be made.
    #[error(transparent)]
    Tap(#[from] hearth_vmm_client::tap::TapError),
    /// nft cannot be run.
    #[error("cannot run {}: {source}; install nftables, or configure the path of nft", path.display())]
    NoNft {
        /// The program.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// nft rejected the rules.
    #[error("{} refused the rules ({status}): {message}", path.display())]
    Rules {
        /// The program.
        path: PathBuf,
        /// Exit status of nft.
        status: std::process::ExitStatus,
        /// The beginning of nft's error output.
        message: String,
    },
}

/// Adds the operation to an error of the operating system.
pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::System { what, source }
}

/// Adds the operation to an answer of rtnetlink.
pub(super) fn refused(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let what = what.into();
    move |source| NetworkError::Netlink { what, source }
}
