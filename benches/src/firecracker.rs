//! Firecracker, without its jailer and its seccomp filters. It boots from a configuration file; a microVM that will be saved
//! or restored has its API as well.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::http::{self, Api};
use crate::vm::{self, COMMAND_LINE, Files, Guest, Monitor, Restore, Running, Save, Waiting};

/// Firecracker as a kind of monitor.
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

    fn config(&self, guest: Guest<'_>, vsock: &Path) -> Value {
        let drives: Vec<_> = guest
            .disk
            .iter()
            .map(|disk| {
                // Writeback, so that a guest's flush has the same effect as in Hearth.
                json!({
                    "drive_id": "disk0", "path_on_host": disk.path, "is_root_device": false,
                    "is_read_only": false, "cache_type": "Writeback",
                })
            })
            .collect();
        json!({
            "boot-source": {
                "kernel_image_path": self.files.kernel,
                "initrd_path": self.files.initramfs,
                "boot_args": COMMAND_LINE,
            },
            "drives": drives,
            "machine-config": { "vcpu_count": 1, "mem_size_mib": guest.memory_mib },
            "vsock": { "guest_cid": 3, "uds_path": vsock },
        })
    }

    /// Starts a process, with its API if `config` is `None` or `with_api` is set.
    fn spawn(&self, folder: &Path, config: Option<&Path>, with_api: bool) -> Result<Process> {
        let log = File::create(folder.join("log")).context("making the log")?;
        let mut command = Command::new(&self.binary);
        command.arg("--no-seccomp").stdin(Stdio::null()).stdout(log).stderr(Stdio::inherit());
        if with_api {
            command.arg("--api-sock").arg(http::socket_in(folder));
        } else {
            command.arg("--no-api");
        }
        if let Some(config) = config {
            command.arg("--config-file").arg(config);
        }
        let child = command.spawn().with_context(|| format!("starting {}", self.binary.display()))?;
        Ok(Process(child))
    }
}

impl Monitor for Firecracker {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn boot(&self, folder: &Path, guest: Guest<'_>) -> Result<Box<dyn Running>> {
        let vsock = folder.join("vsock");
        let ready =
            UnixListener::bind(vm::ready_socket(&vsock)).context("making the guest's ready socket")?;
        let path = folder.join("config.json");
        fs::write(&path, self.config(guest, &vsock).to_string())
            .with_context(|| format!("writing {}", path.display()))?;
        let process = self.spawn(folder, Some(&path), guest.saved_later)?;
        let api = guest.saved_later.then(|| Api::connect(&http::socket_in(folder))).transpose()?;
        Ok(Box::new(Machine { process, vsock, ready: Some(ready), api }))
    }

    fn start(&self, folder: &Path) -> Result<Box<dyn Waiting>> {
        let process = self.spawn(folder, None, true)?;
        let api = Api::connect(&http::socket_in(folder))?;
        Ok(Box::new(Empty { process, api }))
    }

    fn has_overlays(&self) -> bool {
        false
    }

    fn suspends_by(&self) -> Save {
        Save::Full
    }

    fn record_working_set(&self, _: Restore<'_>, _: &Path) -> Result<bool> {
        Ok(false)
    }
}

/// A process, killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have exited by itself
        let _ = self.0.wait();
    }
}

struct Empty {
    process: Process,
    api: Api,
}

impl Waiting for Empty {
    fn prepare(&mut self, _: u64) -> Result<()> {
        Ok(()) // Firecracker has no preparation
    }

    fn restore(mut self: Box<Self>, restore: Restore<'_>) -> Result<Box<dyn Running>> {
        let vsock = restore.folder.join("vsock");
        let body = json!({
            "snapshot_path": restore.snapshot.state,
            "mem_backend": { "backend_path": restore.snapshot.memory, "backend_type": "File" },
            "vsock_override": { "uds_path": vsock },
            "track_dirty_pages": restore.diff_later,
            "resume_vm": true,
        });
        self.api.call("PUT", "/snapshot/load", &body)?;
        Ok(Box::new(Machine { process: self.process, vsock, ready: None, api: Some(self.api) }))
    }
}

struct Machine {
    process: Process,
    vsock: PathBuf,
    ready: Option<UnixListener>,
    api: Option<Api>,
}

impl Machine {
    fn call(&mut self, method: &str, resource: &str, body: &Value) -> Result<()> {
        let api = self.api.as_mut().context("this Firecracker was started without its API")?;
        api.call(method, resource, body)
    }
}

impl Running for Machine {
    fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let listener = self.ready.as_ref().context("a restored guest has had its first word")?;
        let (stream, _) = listener.accept().context("waiting for the guest's first word")?;
        vm::check_word(stream)
    }

    fn vsock(&self) -> PathBuf {
        self.vsock.clone()
    }

    fn pause(&mut self) -> Result<()> {
        self.call("PATCH", "/vm", &json!({ "state": "Paused" }))
    }

    fn save(&mut self, how: Save, folder: &Path) -> Result<()> {
        let kind = match how {
            Save::Full => "Full",
            Save::Diff => "Diff",
        };
        let body = json!({
            "snapshot_type": kind,
            "snapshot_path": folder.join("state"),
            "mem_file_path": folder.join("memory"),
        });
        self.call("PUT", "/snapshot/create", &body)
    }
}
