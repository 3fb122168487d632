//! Swap space in compressed memory, and swapping out a guest's pages.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;

use super::Guest;

/// Where zram devices are created and removed (Linux, Documentation/admin-guide/blockdev/zram.rst).
const CONTROL: &str = "/sys/class/zram-control";
const SIZE: &str = "512M";

/// Swap space that exists while this value lives.
pub(crate) struct Swap {
    /// Number of the zram device, which was created for this value: there may be others.
    number: String,
}

impl Swap {
    /// Creates swap space; returns `None` if the tests do not own the host.
    pub(crate) fn make() -> Option<Self> {
        if std::env::var_os("HEARTH_METAL").is_none() {
            eprintln!("not swapped: HEARTH_METAL is not set, so the host's swap is left alone");
            return None;
        }
        run("modprobe", &["zram"]);
        let number = fs::read_to_string(format!("{CONTROL}/hot_add")).unwrap().trim().to_string();
        let swap = Self { number };
        fs::write(format!("/sys/block/zram{}/disksize", swap.number), SIZE).unwrap();
        run("mkswap", &[&swap.device()]);
        run("swapon", &[&swap.device()]);
        Some(swap)
    }

    fn device(&self) -> String {
        format!("/dev/zram{}", self.number)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            run("swapoff", &[&self.device()]);
            fs::write(format!("{CONTROL}/hot_remove"), &self.number).unwrap();
        }
    }
}

/// Runs a program of the host, which must succeed.
pub(super) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Guest {
    /// Makes the host swap out the monitor's private memory, which is mostly the guest's; returns how many bytes are
    /// swapped out afterwards.
    pub(crate) fn swap_out(&self) -> u64 {
        let pid = libc::pid_t::try_from(self.pid()).unwrap();
        // SAFETY: takes no pointer; the result is checked before it is owned.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        assert!(descriptor >= 0, "pidfd_open: {}", io::Error::last_os_error());
        // SAFETY: a fresh descriptor that nothing else owns.
        let process = unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(descriptor).unwrap()) };
        for (start, bytes) in self.mappings() {
            let part = libc::iovec { iov_base: start as *mut libc::c_void, iov_len: bytes };
            let (pidfd, advice) = (process.as_raw_fd(), libc::MADV_PAGEOUT);
            // SAFETY: the one part lives across the call; its addresses are those of the other process, whose content
            // this does not change.
            let done =
                unsafe { libc::syscall(libc::SYS_process_madvise, pidfd, &raw const part, 1, advice, 0) };
            let error = io::Error::last_os_error();
            // The monitor may have given a mapping back since its mappings were listed; the rest of the range is swapped out even so.
            let gone = error.raw_os_error() == Some(libc::ENOMEM);
            assert!(done >= 0 || gone, "process_madvise: {error}");
        }
        self.status("VmSwap") << 10
    }

    /// Returns the monitor's private writable mappings: address and length in bytes.
    fn mappings(&self) -> Vec<(usize, usize)> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap();
        let range = |line: &str| {
            let mut words = line.split(' ');
            let (start, end) = words.next()?.split_once('-')?;
            let [start, end] = [start, end].map(|word| usize::from_str_radix(word, 16).unwrap());
            (words.next() == Some("rw-p")).then_some((start, end - start))
        };
        // Pieces of guest memory that come from different files are separate mappings.
        maps.lines().filter_map(range).collect()
    }

    /// Returns a value from the monitor's `/proc/PID/status`; sizes are in KiB.
    pub(crate) fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }
}
