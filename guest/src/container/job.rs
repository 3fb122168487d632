//! What the agent has container processes do. Both ends are the same binary, so these messages have no versions.

use hearth_proto::guest::v1::{Process, RootDisk};

/// Mount the root disk and what belongs to a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Prepare {
    /// The disk.
    #[prost(message, optional, tag = "1")]
    pub root: Option<RootDisk>,
    /// With cgroup2, `/dev/fuse` and the machine's disks.
    #[prost(bool, tag = "2")]
    pub all_capabilities: bool,
    /// The container's host name.
    #[prost(string, tag = "3")]
    pub hostname: String,
}

/// Become a program.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Run {
    /// The program.
    #[prost(message, optional, tag = "1")]
    pub process: Option<Process>,
    /// It is the container's first process: mount `/proc`.
    #[prost(bool, tag = "2")]
    pub first: bool,
    /// The container has all capabilities: its `/proc` is not restricted.
    #[prost(bool, tag = "3")]
    pub unrestricted: bool,
    /// The program has all capabilities.
    #[prost(bool, tag = "4")]
    pub all_capabilities: bool,
    /// Soft and hard limit of open files.
    #[prost(uint64, tag = "5")]
    pub nofile: u64,
    /// The hard limit.
    #[prost(uint64, tag = "6")]
    pub nofile_hard: u64,
    /// Stdin is a terminal, which becomes the controlling one.
    #[prost(bool, tag = "7")]
    pub terminal: bool,
}

/// Unpack or pack.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Archive {
    /// The folder to unpack into, or the file or folder to pack.
    #[prost(string, tag = "1")]
    pub path: String,
}
