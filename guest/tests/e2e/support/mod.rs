//! Shared by the tests: a microVM with the agent, and the host's side of its protocol.

mod connection;
mod machine;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use machine::{Guest, Machine};

use hearth_proto::guest::v1::Process;

/// Deadline of a test. Emulated metal on a busy machine is slow, but nothing that works takes so long.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The files that the environment names.
#[derive(Debug, Clone)]
pub(crate) struct Metal {
    pub(crate) monitor: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) root: PathBuf,
}

impl Metal {
    /// The files, or `None` if the environment names no monitor.
    pub(crate) fn find() -> Option<Self> {
        let Some(monitor) = std::env::var_os("HEARTH_VMM") else {
            hearth_testing::skip("HEARTH_VMM is not set; `cargo xtask test` runs this on the metal");
            return None;
        };
        let path =
            |name| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set")));
        Some(Self {
            monitor: monitor.into(),
            kernel: path("HEARTH_GUEST_KERNEL"),
            initramfs: path("HEARTH_GUEST_OS"),
            root: path("HEARTH_GUEST_ROOT"),
        })
    }
}

/// A process with these arguments.
pub(crate) fn process(arguments: &[&str]) -> Process {
    Process { arguments: arguments.iter().map(ToString::to_string).collect(), ..Process::default() }
}

/// A shell with a script.
pub(crate) fn shell(script: &str) -> Process {
    process(&["sh", "-c", script])
}
