//! Shared parts of the tests: paths of files, starting a guest, communicating with it, waiting for its exit.

mod broker;
mod console;
mod files;
mod guest;
mod host;
mod saved;
mod swap;
mod taps;

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use broker::HostPorts;
use console::Console;
pub(crate) use console::lines;
pub(crate) use files::{assert_clean_after_replay, assert_clean_ext4, copy, disk, ext4, patterned};
pub(crate) use guest::{ExitWait, Guest, Machine, cgroup};
pub(crate) use host::{DiskFolder, HugePages};
pub(crate) use saved::{Clone, Saved, create};
pub(crate) use swap::Swap;
pub(crate) use taps::Tap;

/// Timeout of the tests. Emulated metal on a busy machine is slow, but nothing that works takes this long.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The files whose paths the environment variables contain.
#[derive(Debug, Clone)]
pub(crate) struct Metal {
    pub(crate) monitor: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) hostile: PathBuf,
}

impl Metal {
    /// Returns the files; `None` if the environment variables do not name a monitor.
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
            initramfs: path("HEARTH_GUEST_INITRD"),
            hostile: path("HEARTH_HOSTILE_IMAGE"),
        })
    }
}

/// Returns how often to repeat a test that depends on chance.
pub(crate) fn rounds(usual: u32, full: u32) -> u32 {
    if hearth_testing::full() { full } else { usual }
}

/// Polls until `done` returns true. The polling itself lets the guest make progress.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < TEST_TIMEOUT, "{what} does not happen");
    }
}

/// Runs a blocking function on a separate thread, and waits for its result with a timeout.
pub(crate) fn within<T: Send + 'static>(what: &str, wait: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(wait()));
    receiver.recv_timeout(TEST_TIMEOUT).unwrap_or_else(|error| panic!("waiting for {what}: {error}"))
}
