//! Block devices in compressed memory, for tests that need a disk of the host or swap space.

use std::fs;
use std::process::Command;

/// Where zram devices are created and removed (Linux, Documentation/admin-guide/blockdev/zram.rst).
const CONTROL: &str = "/sys/class/zram-control";
const SIZE: &str = "512M";

/// A device that exists while this value lives.
pub(crate) struct Zram {
    /// Number of the device, which was created for this value: there may be others.
    number: String,
}

impl Zram {
    /// Creates a device; returns `None` if the tests do not own the host.
    pub(crate) fn make() -> Option<Self> {
        if std::env::var_os("HEARTH_METAL").is_none() {
            eprintln!("left out: HEARTH_METAL is not set, so the host's devices are left alone");
            return None;
        }
        run("modprobe", &["zram"]);
        let number = fs::read_to_string(format!("{CONTROL}/hot_add")).unwrap().trim().to_string();
        let device = Self { number };
        fs::write(format!("/sys/block/zram{}/disksize", device.number), SIZE).unwrap();
        Some(device)
    }

    pub(crate) fn path(&self) -> String {
        format!("/dev/zram{}", self.number)
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::write(format!("{CONTROL}/hot_remove"), &self.number).unwrap();
        }
    }
}

/// Runs a program of the host, which must succeed.
pub(super) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}
