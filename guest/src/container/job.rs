//! Jobs that the agent gives to container processes. Sender and receiver are the same binary, so these messages have no versions.

use hearth_proto::guest::v1::{Process, RootDisk};

/// Mount the root disk and the other file systems of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Prepare {
    /// The root disk.
    #[prost(message, optional, tag = "1")]
    pub root: Option<RootDisk>,
    /// Whether the container has all capabilities; it also gets cgroup2, `/dev/fuse` and the machine's disks then.
    #[prost(bool, tag = "2")]
    pub all_capabilities: bool,
    /// The container's host name.
    #[prost(string, tag = "3")]
    pub hostname: String,
    /// Size of `/dev/shm` in MiB; 0 for half of the memory.
    #[prost(uint64, tag = "4")]
    pub shm_mib: u64,
    /// Whether the image's own `/etc/resolv.conf`, `hosts` and `hostname` stay.
    #[prost(bool, tag = "5")]
    pub keep_etc: bool,
}

/// Become a program.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Run {
    /// The program, its arguments, environment and user.
    #[prost(message, optional, tag = "1")]
    pub process: Option<Process>,
    /// Whether this is the container's first process, which has to mount `/proc`.
    #[prost(bool, tag = "2")]
    pub first: bool,
    /// Whether the container has all capabilities: its `/proc` is not restricted then.
    #[prost(bool, tag = "3")]
    pub unrestricted: bool,
    /// Whether the program gets all capabilities.
    #[prost(bool, tag = "4")]
    pub all_capabilities: bool,
    /// Soft limit of open files.
    #[prost(uint64, tag = "5")]
    pub nofile: u64,
    /// Hard limit of open files, at least the soft one.
    #[prost(uint64, tag = "6")]
    pub nofile_hard: u64,
    /// Whether stdin is a terminal, which becomes the controlling one.
    #[prost(bool, tag = "7")]
    pub terminal: bool,
}

/// Unpack or pack an archive.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Archive {
    /// The folder to unpack into, or the file or folder to pack.
    #[prost(string, tag = "1")]
    pub path: String,
}
