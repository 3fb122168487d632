//! Prepare, Restore and SaveWorkingSet: the requests that build a machine from files.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use hearth_proto::vmm::v1::response::Result as Response;
use hearth_proto::vmm::v1::{self as proto, DescriptorRole as Role};
use hearth_vmm_api::config::rate_limiter::DeviceLimits;
use hearth_vmm_api::config::restore::RestoreClock;
use hearth_vmm_api::config::wire::Descriptors;
use hearth_vmm_api::config::{CONSOLE_MAX_BYTES, ConfigError, MachineConfig};
use hearth_vmm_api::limits::{VCPU_RANGE, check_memory};
use hearth_vmm_api::snapshot::state_file::{self, StateError};
use hearth_vmm_api::steps::Steps;

use super::error::RequestError;
use super::monitor::{Monitor, State};
use crate::machine::{BuildError, Machine, Prepared, Restored, Snapshot};
use crate::snapshot::layer_maps;

impl Monitor {
    /// Builds a VM with vCPUs before the snapshot that it will run is known.
    pub(super) fn prepare(
        &mut self,
        prepare: &proto::Prepare,
        fds: Vec<OwnedFd>,
    ) -> Result<Response, RequestError> {
        let State::Empty = self.state else { return Err(self.wrong_state("prepare it")) };
        if !VCPU_RANGE.contains(&prepare.vcpus) {
            return Err(ConfigError::Vcpus(prepare.vcpus).into());
        }
        check_memory(prepare.memory_mib).map_err(ConfigError::from)?;
        let mut descriptors = Descriptors::new(&prepare.descriptors, fds)?;
        let kvm = descriptors.require(Role::Kvm, 0)?;
        descriptors.finish()?;
        let prepared = Prepared::new(kvm.as_fd(), prepare.vcpus, prepare.memory_mib)?;
        self.prepared = Some((prepared, kvm));
        Ok(Response::Done(proto::Done {}))
    }

    /// Builds the machine of a snapshot. If that fails, the monitor ends.
    pub(super) fn restore(
        &mut self,
        restore: &proto::Restore,
        fds: Vec<OwnedFd>,
    ) -> Result<Response, RequestError> {
        let mut steps = Steps::default();
        let mut descriptors = Descriptors::new(&restore.descriptors, fds)?;
        let state =
            state_file::read(&File::from(descriptors.require(Role::State, 0)?)).map_err(BuildError::from)?;
        let memory = descriptors.require(Role::Memory, 0)?.into();
        let file = |descriptors: &mut Descriptors, role| descriptors.take(role, 0).map(File::from);
        let diff = file(&mut descriptors, Role::MemoryDiff);
        let working_set = file(&mut descriptors, Role::WorkingSet);
        let userfaultfd = file(&mut descriptors, Role::Userfaultfd);
        let (prepared, kvm) = match (descriptors.take(Role::Kvm, 0), self.prepared.take()) {
            (Some(kvm), prepared) => (prepared.map(|(prepared, _)| prepared), kvm),
            (None, Some((prepared, kvm))) => (Some(prepared), kvm),
            (None, None) => return Err(ConfigError::MissingDescriptor("KVM 0".into()).into()),
        };
        let mut description = state.config.clone().unwrap_or_default();
        check_layers(&description, &restore.disk_layers)?;
        description.console_max_bytes = match restore.console_max_bytes {
            0 => CONSOLE_MAX_BYTES,
            bytes => bytes,
        };
        if let Some(limits) = restore.limits {
            DeviceLimits::from_message(limits)?.describe(&mut description);
        }
        let config = MachineConfig::from_parts(description.clone(), &mut descriptors)?;
        descriptors.finish()?;
        let rebuild = config.try_clone().map_err(BuildError::host("duplicating descriptors"))?;
        let layers = |disk: &proto::Disk| usize::try_from(disk.layers).unwrap_or(0);
        // A diff has one topmost layer of its own. The next diff replaces that layer, so it does not count as a base
        // layer.
        let own = usize::from(!state.base_id.is_empty());
        self.base_layers = description.disks.iter().map(|disk| layers(disk).saturating_sub(own)).collect();
        self.layer_maps = state.board.as_ref().map(layer_maps::of).unwrap_or_default();
        self.description = description;
        let (_, kvm) = self.rebuild.insert((rebuild, kvm));
        steps.done("state");
        let clock = RestoreClock::of(restore);
        let snapshot = Snapshot { state, config, memory, diff, clock, working_set, userfaultfd };
        let shutdown = Arc::clone(&self.shutdown);
        let Restored { machine, pages, rest } =
            Machine::restore(snapshot, kvm.as_fd(), prepared, &self.host, shutdown, &mut steps)?;
        self.state = State::Paused(machine);
        if restore.resume {
            self.go();
            steps.done("start");
        }
        if let Some(rest) = rest {
            rest.start(&self.host.filters);
        }
        let counter = |(name, value): (&str, u64)| proto::Counter { name: name.into(), value };
        let (steps, pages) = (steps.message(), pages.into_iter().map(counter).collect::<Vec<_>>());
        self.last_restore = Some((steps.clone(), pages.clone()));
        Ok(Response::Restored(proto::Restored { steps, pages }))
    }

    /// Writes the working set that the machine has touched so far.
    pub(super) fn save_working_set(
        &mut self,
        save: &proto::SaveWorkingSet,
        fds: Vec<OwnedFd>,
    ) -> Result<Response, RequestError> {
        if !matches!(self.state, State::Running(_) | State::Paused(_)) {
            return Err(self.wrong_state("write its working set"));
        }
        let mut descriptors = Descriptors::new(&save.descriptors, fds)?;
        let file = File::from(descriptors.require(Role::WorkingSet, 0)?);
        descriptors.finish()?;
        let paused = matches!(self.state, State::Paused(_));
        self.pause()?;
        let written = self.write_working_set(&file);
        if !paused {
            self.go();
        }
        written.map(Response::WorkingSetSaved)
    }

    fn write_working_set(&self, file: &File) -> Result<proto::WorkingSetSaved, RequestError> {
        let machine = self.machine("write its working set")?;
        let (Some(recorder), Some(backing)) = (machine.recorder(), machine.backing()) else {
            return Err(RequestError::NotRecording);
        };
        let set = recorder.working_set(machine.memory(), backing).map_err(BuildError::from)?;
        set.write(file, backing).map_err(BuildError::from)?;
        let written = set.touched.iter().filter(|touched| touched.written).map(|touched| touched.run.pages);
        Ok(proto::WorkingSetSaved { touched_pages: set.pages(), written_pages: written.sum() })
    }
}

/// Returns an error if a disk has another number of layers than when the snapshot was taken.
fn check_layers(description: &proto::Create, passed: &[u32]) -> Result<(), RequestError> {
    for (index, disk) in description.disks.iter().enumerate() {
        let (expected, passed) = (disk.layers, passed.get(index).copied().unwrap_or(0));
        if expected != passed {
            let message =
                format!("disk {index} of the snapshot has {expected} frozen layers, {passed} were passed");
            return Err(BuildError::from(StateError::Content(message)).into());
        }
    }
    Ok(())
}
