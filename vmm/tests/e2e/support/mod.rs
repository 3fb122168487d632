//! What the tests share: where the files are, how a guest is started and talked to, and how it ends.

mod broker;
mod console;
mod files;
mod guest;
mod saved;
mod swap;
mod taps;

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use broker::HostPorts;
use console::Console;
pub(crate) use files::{assert_clean_after_replay, assert_clean_ext4, copy, disk, ext4, patterned};
pub(crate) use guest::{ExitWait, Guest, Machine, cgroup};
pub(crate) use saved::{Clone, Saved, create};
pub(crate) use swap::Swap;
pub(crate) use taps::Tap;

/// When a test gives up. Emulated metal on a busy machine is slow; nothing that works takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The files that the environment names.
#[derive(Debug, Clone)]
pub(crate) struct Metal {
    pub(crate) monitor: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) hostile: PathBuf,
}

impl Metal {
    /// The files, or `None` where the environment names no monitor.
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

/// How often to repeat what depends on chance.
pub(crate) fn rounds(usual: u32, full: u32) -> u32 {
    if std::env::var_os("HEARTH_FULL").is_some() { full } else { usual }
}

/// Asks until it is so; asking is what gives the guest time.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} does not happen");
    }
}

/// Waits for something that blocks, on a thread of its own.
pub(crate) fn within<T: Send + 'static>(what: &str, wait: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(wait()));
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("waiting for {what}: {error}"))
}
