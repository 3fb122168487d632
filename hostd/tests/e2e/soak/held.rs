//! What the daemon holds: memory and descriptors.

use std::fmt::{self, Display, Formatter};
use std::fs;

use crate::support::Daemon;

/// The most that the daemon may hold, whatever is done to it: several times what it was seen to hold.
const MOST: Held = Held { memory_mib: 768, descriptors: 4096 };

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Its resident memory in MiB.
    memory_mib: u64,
    /// Its open descriptors.
    descriptors: usize,
}

impl Held {
    /// What the daemon holds now.
    pub(super) fn by(daemon: &Daemon) -> Self {
        let process = format!("/proc/{}", daemon.pid());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        let descriptors = fs::read_dir(format!("{process}/fd")).unwrap().count();
        Self { memory_mib: kib >> 10, descriptors }
    }

    /// The larger of both, in each respect.
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            memory_mib: self.memory_mib.max(other.memory_mib),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }

    /// Fails if this is more than a daemon may hold.
    pub(super) fn is_bounded(self) {
        assert!(
            self.memory_mib <= MOST.memory_mib && self.descriptors <= MOST.descriptors,
            "hearthd held {self}; at most {MOST} are expected"
        );
    }
}

impl Display for Held {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB and {} descriptors", self.memory_mib, self.descriptors)
    }
}
