//! Firecracker, started from a configuration file, without its jailer.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::vm::{self, COMMAND_LINE, Disk, Files, Monitor, Running};

/// The kind.
#[derive(Debug)]
pub(crate) struct Firecracker {
    binary: PathBuf,
    files: Files,
}

impl Firecracker {
    /// The monitor at `binary`.
    pub(crate) fn new(binary: PathBuf, files: Files) -> Self {
        Self { binary, files }
    }
}

impl Monitor for Firecracker {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn boot(&self, folder: &Path, disk: Option<&Disk>) -> Result<Box<dyn Running>> {
        let vsock = folder.join("vsock");
        let ready =
            UnixListener::bind(vm::ready_socket(&vsock)).context("making the guest's ready socket")?;
        let drives: Vec<_> = disk
            .iter()
            .map(|disk| {
                // Writeback, so that a guest's flush does what it does in Hearth.
                json!({
                    "drive_id": "disk0", "path_on_host": disk.path, "is_root_device": false,
                    "is_read_only": false, "cache_type": "Writeback",
                })
            })
            .collect();
        let config = json!({
            "boot-source": {
                "kernel_image_path": self.files.kernel,
                "initrd_path": self.files.initramfs,
                "boot_args": COMMAND_LINE,
            },
            "drives": drives,
            "machine-config": { "vcpu_count": 1, "mem_size_mib": self.files.memory_mib },
            "vsock": { "guest_cid": 3, "uds_path": vsock },
        });
        let path = folder.join("config.json");
        fs::write(&path, config.to_string()).with_context(|| format!("writing {}", path.display()))?;
        let log = File::create(folder.join("log")).context("making the log")?;
        let child = Command::new(&self.binary)
            .args(["--no-api", "--config-file"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        Ok(Box::new(Machine { child, vsock, ready }))
    }

    fn has_overlays(&self) -> bool {
        false
    }
}

struct Machine {
    child: Child,
    vsock: PathBuf,
    ready: UnixListener,
}

impl Running for Machine {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        vm::wait_for_word(&self.ready)
    }

    fn vsock(&self) -> PathBuf {
        self.vsock.clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}
