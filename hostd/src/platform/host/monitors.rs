//! Monitor processes in the pool, before they have a microVM.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_host::groups::{Groups, Share};
use hearth_host::microvm::process::Process;
use hearth_host::microvm::{Microvm, MicrovmError};
use hearth_model::shape::{MemoryClass, Shape};

use super::config::JailSettings;
use super::error::{HostError, failed};
use super::layout::{PREFIX, Place, remove_folder};
use super::names::{InUse, Uid};
use super::record::{MonitorRecord, Record as _, RunRecord};

/// How long a killed process may take to exit.
pub(super) const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What files of memory and disks have in addition to that, in bytes.
const FILE_OVERHEAD: u64 = 1 << 30;

/// A shape, as a kind of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct MonitorShape {
    vcpus: u32,
    memory_mib: u64,
}

impl From<Shape> for MonitorShape {
    fn from(shape: Shape) -> Self {
        Self { vcpus: shape.vcpus, memory_mib: shape.memory_mib }
    }
}

impl MonitorShape {
    /// Bytes that the largest file of a microVM has at most: its memory, or a disk of any class. A monitor that its guest has taken over
    /// can make none of its files larger.
    fn largest_file(self) -> u64 {
        let memory = self.memory_mib.saturating_mul(1 << 20);
        memory.max(MemoryClass::LARGEST.disk_bytes()).saturating_add(FILE_OVERHEAD)
    }
}

impl fmt::Display for MonitorShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB, {} vCPUs", self.memory_mib, self.vcpus)
    }
}

/// Makes monitors.
#[derive(Debug, Clone)]
pub(super) struct MonitorFactory {
    pub(super) vmm: PathBuf,
    pub(super) jail: JailSettings,
    pub(super) groups: Groups,
    pub(super) in_use: Arc<InUse>,
    /// The folder of the monitors' run directories.
    pub(super) pool: PathBuf,
}

/// A monitor that waits for a microVM. Dropping it kills the process, and takes a moment.
#[derive(Debug)]
pub(super) struct Monitor {
    /// None once the monitor was claimed.
    parts: Option<(Microvm, Uid)>,
    process: Arc<Process>,
    folder: PathBuf,
    groups: Groups,
}

impl MonitorFactory {
    /// Starts a monitor with a virtual machine of this kind.
    pub(super) fn make(&self, kind: MonitorShape) -> Result<Monitor, HostError> {
        let uid = self.in_use.take_uid().ok_or(HostError::NoUserId)?;
        let folder = self.pool.join(format!("{PREFIX}{}", uid.number()));
        // No process has this user id, so anything in the folder is left over.
        remove_folder(&folder).map_err(failed("removing", &folder))?;
        self.groups.remove(uid.number())?;
        let mut jail = self.jail.jail(uid.number());
        jail.cgroup = self.groups.idle(uid.number());
        jail.fsize = jail.fsize.or(Some(kind.largest_file()));
        let monitor = self.start(&folder, jail, uid);
        if monitor.is_err() {
            let _ = remove_folder(&folder); // the first error is reported
        }
        let monitor = monitor?;
        if let Some((microvm, _)) = &monitor.parts {
            microvm.client().prepare(kind.vcpus, kind.memory_mib).map_err(HostError::Prepare)?;
        }
        Ok(monitor)
    }

    fn start(
        &self,
        folder: &Path,
        jail: hearth_vmm_jail::JailConfig,
        uid: Uid,
    ) -> Result<Monitor, HostError> {
        let started = Microvm::start(&self.vmm, folder, jail)?;
        let process = started.detach()?.ok_or(HostError::NotStarted)?;
        let record = MonitorRecord { process: process.identity().clone(), uid: uid.number() };
        let monitor = Monitor {
            parts: Some((started, uid)),
            process: Arc::new(process),
            folder: folder.to_owned(),
            groups: self.groups.clone(),
        };
        record.write(folder).map_err(failed("writing into", folder))?;
        Ok(monitor)
    }
}

impl Monitor {
    /// Whether the process still lives.
    pub(super) fn is_alive(&self) -> bool {
        !self.process.has_exited()
    }

    /// Hands the monitor over to a microVM: the microVM's record is written, then the run directory is renamed to
    /// that of the microVM. From then on the monitor is found there, and removed with the microVM.
    pub(super) fn claim(
        mut self,
        place: &Place,
        record: &RunRecord,
        (shape, baseline_mib): (Shape, u32),
    ) -> Result<(Microvm, Arc<Process>), HostError> {
        let uid = self.parts.as_ref().map(|(_, uid)| uid.number()).ok_or(HostError::Claimed)?;
        self.groups.limit(uid, Share { shape, class_mib: baseline_mib.into() })?;
        record.write(&self.folder).map_err(failed("writing into", &self.folder))?;
        let (started, uid) = self.parts.take().ok_or(HostError::Claimed)?;
        match started.move_to(&place.run) {
            Ok(moved) => {
                uid.keep();
                Ok((moved, Arc::clone(&self.process)))
            }
            Err(error) => {
                self.discard();
                drop(uid);
                Err(failed_claim(error, place))
            }
        }
    }

    /// Kills the process, and removes its control group and folder.
    fn discard(&self) {
        let _ = self.process.end(EXIT_TIMEOUT); // it may have exited, and a later sweep finds it if not
        if let Some(uid) =
            self.folder.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse().ok())
        {
            let _ = self.groups.remove(uid); // if removal fails, a later sweep removes the group
        }
        let _ = remove_folder(&self.folder);
    }
}

fn failed_claim(error: MicrovmError, place: &Place) -> HostError {
    let _ = remove_folder(&place.run); // if the rename happened
    error.into()
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // The user id becomes free after everything else is gone.
        if let Some(parts) = self.parts.take() {
            self.discard();
            drop(parts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_a_microvm_fits_its_limit() {
        for size in MemoryClass::SIZES {
            let class = MemoryClass::try_from(size).unwrap();
            for burst in [1, 4] {
                let shape = class.shape(hearth_model::shape::Burst::try_from(burst).unwrap());
                let limit = MonitorShape::from(shape).largest_file();
                assert!(limit > shape.memory_mib << 20 && limit > class.disk_bytes(), "{size} {burst}");
                assert!(limit <= 33 << 30, "{size} {burst}");
            }
            assert!(class <= MemoryClass::LARGEST);
        }
    }
}
