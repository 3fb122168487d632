//! The ARM64 metal: runs aarch64 binaries with a real `/dev/kvm`.
//!
//! On an aarch64 machine with a usable `/dev/kvm`, the metal is this machine, and a job runs in a scratch folder on it.
//! Everywhere else it is an emulated host (QEMU in full emulation with EL2, Debian's arm64 kernel): `image` makes
//! its kernel and initramfs, `qemu` runs it, `ports` and `transfer` carry output and files, `disks` attaches files that are too
//! large for that, `debian` adds programs to busybox's, `init.sh` is its PID 1.

mod debian;
mod disks;
mod image;
mod native;
pub(crate) mod options;
mod ports;
mod qemu;
mod terminal;
pub(crate) mod transfer;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Result;

use crate::cache::{Cache, RunFolder};
use crate::packages;
use crate::progress;

/// The processors that the emulated metal can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cpu {
    /// Graviton 2's core: neither SVE nor pointer authentication.
    NeoverseN1,
    /// Graviton 3's core: with SVE and pointer authentication, and caches that are coherent for instructions.
    NeoverseV1,
    /// All features that QEMU supports; pointer authentication uses QEMU's own cheap algorithm, because the real one is very slow
    /// when emulated.
    Max,
}

impl Cpu {
    /// Name in the titles of steps.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::NeoverseN1 => "Neoverse N1",
            Self::NeoverseV1 => "Neoverse V1",
            Self::Max => "max",
        }
    }
}

/// The kernels that the emulated metal can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostKernel {
    /// Debian's kernel for clouds, with pages of 4 KiB.
    Cloud,
    /// Debian's kernel with pages of 16 KiB.
    LargePages,
}

/// The emulated ARM64 host of a job.
#[derive(Clone, Debug)]
pub(crate) struct EmulatedHost {
    /// Type of the processors.
    pub(crate) cpu: Cpu,
    /// Kernel of the host.
    pub(crate) kernel: HostKernel,
    /// Number of processors.
    pub(crate) processors: u32,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// Whether time is counted in instructions (one takes a nanosecond).
    pub(crate) icount: bool,
}

impl Default for EmulatedHost {
    fn default() -> Self {
        let (cpu, kernel) = (Cpu::NeoverseN1, HostKernel::Cloud);
        Self { cpu, kernel, processors: 2, memory_mib: 4096, icount: false }
    }
}

/// The action of a job.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// An interactive shell on the user's terminal.
    Shell,
    /// A program with its arguments.
    Run(Vec<OsString>),
}

/// One job for the metal.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The emulated host, if the metal is emulated.
    pub(crate) emulated_host: EmulatedHost,
    /// Files and folders to copy to the metal, each with its name in the folder of inputs.
    pub(crate) inputs: Vec<(PathBuf, String)>,
    /// Names in the folder of outputs to copy back, each with its target.
    pub(crate) outputs: Vec<(String, PathBuf)>,
    /// Files to attach as read-only disks, each with the name of the disk.
    pub(crate) disks: Vec<(PathBuf, String)>,
    /// Whether Debian's programs are needed ([`debian::PROGRAMS`]).
    pub(crate) debian: bool,
    /// Forwarded TCP ports: on this machine's loopback address, and on the metal.
    pub(crate) forwards: Vec<(u16, u16)>,
    /// Environment of the command.
    pub(crate) environment: Vec<(String, OsString)>,
    /// Standard input of the command, on which it can answer, too; empty if there is none. It ends when its other end is closed.
    pub(crate) stdin: Option<Arc<UnixStream>>,
    /// Time limit of the job.
    pub(crate) timeout: Option<Duration>,
    /// The action to run.
    pub(crate) action: Action,
    /// Whether to print messages when the machine is up and when it is done.
    pub(crate) announce: bool,
    /// Prefix of the lines of its output, if another job's output comes at the same time.
    pub(crate) prefix: Option<String>,
    /// Stops the job when it becomes true.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Job {
    /// A job that runs a program for at most an hour.
    pub(crate) fn new(action: Action) -> Self {
        let timeout = match action {
            Action::Shell => None,
            Action::Run(_) => Some(Duration::from_secs(3600)),
        };
        Self {
            emulated_host: EmulatedHost::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            disks: Vec::new(),
            debian: false,
            forwards: Vec::new(),
            environment: Vec::new(),
            stdin: None,
            timeout,
            action,
            announce: true,
            prefix: None,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }
}

/// The job was stopped by [`Job::stop`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the job was stopped")]
pub(crate) struct Stopped;

/// Result of a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// The exit status of the command (128 + signal if a signal terminated it).
    pub(crate) status: u8,
    /// Time from the start of the job to the start of the command.
    pub(crate) boot: Duration,
    /// Duration of the command.
    pub(crate) command: Duration,
}

/// A metal for one job.
#[derive(Debug)]
pub(crate) struct Metal {
    cache: Cache,
    run: RunFolder,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Native,
    Emulated,
}

/// The packages that jobs need on this machine.
pub(crate) fn needs() -> Vec<packages::Need> {
    if kvm_is_usable() {
        return debian::PROGRAMS.to_vec();
    }
    vec![
        packages::program("qemu-system-arm", "qemu-system-aarch64", "emulates the ARM64 metal"),
        packages::program("xz-utils", "xz", "unpacks the metal's kernel modules"),
        packages::program("e2fsprogs", "mke2fs", "makes file systems for guests"),
        packages::program("erofs-utils", "mkfs.erofs", "makes the file system of the metal's programs"),
    ]
}

impl Place {
    /// Determines where jobs run on this machine, and sets up what is needed for that.
    fn prepare(cache: &Cache) -> Result<Self> {
        if kvm_is_usable() {
            return Ok(Self::Native);
        }
        packages::ensure(cache, &needs())?;
        Ok(Self::Emulated)
    }
}

impl Metal {
    /// Determines where jobs run on this machine, and sets up what is needed for that.
    pub(crate) fn open(cache: &Cache) -> Result<Self> {
        Ok(Self { cache: cache.clone(), run: cache.run_folder()?, place: Place::prepare(cache)? })
    }

    /// The folder of the job's inputs.
    pub(crate) fn inputs(&self) -> PathBuf {
        match self.place {
            Place::Native => self.run.path().join("in"),
            Place::Emulated => Path::new("/in").to_path_buf(),
        }
    }

    /// The folder of the job's outputs.
    pub(crate) fn outputs(&self) -> PathBuf {
        match self.place {
            Place::Native => self.run.path().join("out"),
            Place::Emulated => Path::new("/out").to_path_buf(),
        }
    }

    /// The folder of the job's disks.
    pub(crate) fn disks(&self) -> PathBuf {
        match self.place {
            Place::Native => self.run.path().join("disks"),
            Place::Emulated => Path::new("/dev/disk").to_path_buf(),
        }
    }

    /// Runs a job. An error means that the job's own status is unknown.
    pub(crate) fn run(mut self, mut job: Job) -> Result<Finished> {
        if job.debian {
            match self.place {
                Place::Native => debian::install(&self.cache)?,
                Place::Emulated => job.disks.push((debian::image(&self.cache)?, debian::DISK.into())),
            }
        }
        job.environment.insert(0, ("HEARTH_IN".into(), self.inputs().into()));
        job.environment.insert(1, ("HEARTH_OUT".into(), self.outputs().into()));
        job.environment.insert(2, ("HEARTH_DISKS".into(), self.disks().into()));
        let result = match &self.place {
            Place::Native => native::run(self.run.path(), &job),
            Place::Emulated => {
                let image = image::Image::prepare(&self.cache, job.emulated_host.kernel)?;
                qemu::run(self.run.path(), &image, &job)
            }
        };
        match &result {
            Ok(finished) if job.announce => progress::note(&format!(
                "{}metal: exit status {} after {} (and {} to get there)",
                job.prefix.as_deref().unwrap_or_default(),
                finished.status,
                progress::clock(finished.command),
                progress::clock(finished.boot)
            )),
            Ok(_) => {}
            Err(_) => self.run.keep(),
        }
        result
    }
}

/// Sets up everything that jobs need on this machine: packages, and the emulated machine's kernel and initramfs.
pub(crate) fn set_up(cache: &Cache) -> Result<()> {
    match Place::prepare(cache)? {
        Place::Native => Ok(()),
        Place::Emulated => image::Image::prepare(cache, EmulatedHost::default().kernel).map(drop),
    }
}

/// Whether this machine itself is ARM64 metal.
pub(crate) fn kvm_is_usable() -> bool {
    cfg!(target_arch = "aarch64") && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}
