//! Save and CancelSave: the requests that write a machine to files.
//!
//! The control thread pauses the machine and reads the state that is quick to read: CPUs, interrupt controller and
//! devices. The [`Saver`] writes the rest. Until it is done the machine is in the state *saving*: it is paused, and can
//! resume immediately when the save is cancelled.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use hearth_proto::vmm::v1::response::Result as Response;
use hearth_proto::vmm::v1::{
    self as proto, DescriptorRole as Role, SaveKind, SaveStage, SavedMachine, SavedMap,
};
use hearth_vmm_api::config::wire::Descriptors;
use hearth_vmm_api::config::{DiskSource, MachineConfig};
use hearth_vmm_api::steps::Steps;

use super::error::RequestError;
use super::monitor::{Monitor, Outcome, State};
use crate::devices::virtio::block::LayerToMerge;
use crate::machine::{Machine, SavedParts};
use crate::snapshot::layer_maps;
use crate::snapshot::save::SaveError;
use crate::snapshot::saver::{Job, LayerJob, Saver};

/// The files that a save writes.
struct Files {
    state: File,
    memory: File,
    /// One entry per disk: the file for its saved layer, if its overlay is to be written out.
    layers: Vec<Option<File>>,
}

impl Files {
    fn take(mut descriptors: Descriptors, config: &MachineConfig) -> Result<Self, RequestError> {
        let state = File::from(descriptors.require(Role::State, 0)?);
        let memory = File::from(descriptors.require(Role::Memory, 0)?);
        let disks = config.disks.iter().enumerate();
        let layers = disks.map(|(index, disk)| match &disk.source {
            DiskSource::Overlay { .. } => descriptors.take(Role::SavedLayer, index).map(File::from),
            _ => None,
        });
        let layers: Vec<Option<File>> = layers.collect();
        descriptors.finish()?;
        let named = [("state", Some(&state)), ("memory", Some(&memory))];
        for (name, file) in named.into_iter().chain(layers.iter().map(|file| ("layer", file.as_ref()))) {
            let Some(file) = file else { continue };
            let reading =
                |source| RequestError::Host { what: "looking at a file that is to be written", source };
            if file.metadata().map_err(reading)?.len() != 0 {
                return Err(RequestError::NotEmpty(name));
            }
        }
        Ok(Self { state, memory, layers })
    }
}

impl Monitor {
    /// Starts to save the machine; the client receives the response when everything is written.
    pub(super) fn save(&mut self, save: proto::Save, fds: Vec<OwnedFd>) -> Result<Outcome, RequestError> {
        if !matches!(self.state, State::Running(_) | State::Paused(_)) {
            return Err(self.wrong_state("save it"));
        }
        let descriptors = Descriptors::new(&save.descriptors, fds)?;
        let kind = save.kind();
        if kind == SaveKind::Unspecified {
            return Err(RequestError::SaveKind);
        }
        let Some((config, _)) = &self.rebuild else { return Err(self.wrong_state("save it")) };
        let files = Files::take(descriptors, config)?;
        let mut steps = Steps::default();
        let (machine, was_running) = match std::mem::replace(&mut self.state, State::Empty) {
            State::Running(machine) => {
                machine.pause();
                (machine, true)
            }
            State::Paused(machine) => (machine, false),
            other => {
                self.state = other;
                return Err(self.wrong_state("save it"));
            }
        };
        steps.done("pause");
        let started = if self.shutdown.is_reported() {
            Err(RequestError::State { operation: "save it", state: "about to end, or to restart" })
        } else {
            self.start_saver(&machine, kind, save.hold_at(), files, steps)
        };
        self.state = State::Paused(machine);
        match started {
            Ok(saver) => {
                self.saver = Some(saver);
                self.saving(was_running);
                Ok(Outcome::WhenSaved)
            }
            Err(error) => {
                if was_running {
                    self.go();
                }
                Err(error)
            }
        }
    }

    fn start_saver(
        &self,
        machine: &Machine,
        kind: SaveKind,
        hold_at: SaveStage,
        files: Files,
        mut steps: Steps,
    ) -> Result<Saver, RequestError> {
        if kind == SaveKind::Diff && machine.backing().is_none() {
            return Err(SaveError::NoBase.into());
        }
        let SavedParts { aarch64, clock, board } = machine.save()?;
        let maps = layer_maps::of(&board);
        steps.done("CPUs and devices");
        let cloned = |source| RequestError::Host { what: "duplicating descriptors", source };
        let Some((config, _)) = &self.rebuild else { return Err(self.wrong_state("save it")) };
        let mut description = self.description.clone();
        // What the overlay may take says nothing about the overlay of a machine that is restored.
        description.disks.iter_mut().for_each(|disk| disk.room_bytes = None);
        let mut layers = Vec::new();
        for ((index, into), disk) in files.layers.into_iter().enumerate().zip(&config.disks) {
            let DiskSource::Overlay { layers: below, overlay, .. } = &disk.source else { continue };
            // Layers that belong to the snapshot on which this one builds are referenced unchanged.
            let kept = match kind {
                SaveKind::Diff => self.base_layers.get(index).copied().unwrap_or(0).min(below.len()),
                _ => 0,
            };
            let count = match into {
                Some(into) => {
                    // Of the layers below, the map is known of the one that came with the state: the topmost.
                    let of = |maps: &[Option<SavedMap>]| maps.get(index).cloned().flatten();
                    let own = below.len().checked_sub(1).filter(|own| *own >= kept);
                    let below = below.iter().enumerate().skip(kept);
                    let below =
                        below.map(|(at, file)| (file, of(&self.layer_maps).filter(|_| own == Some(at))));
                    let merged = below.chain([(overlay, of(&maps))]);
                    let merged = merged.map(|(file, map)| Ok(LayerToMerge { file: file.try_clone()?, map }));
                    let merged = merged.collect::<std::io::Result<_>>().map_err(cloned)?;
                    layers.push(LayerJob { index, layers: merged, into });
                    kept + 1
                }
                // The overlay file itself becomes the topmost frozen layer.
                None => below.len() + 1,
            };
            if let Some(disk) = description.disks.get_mut(index) {
                disk.layers = u32::try_from(count).unwrap_or(u32::MAX);
            }
        }
        let job = Job {
            kind,
            state: SavedMachine {
                program_version: env!("CARGO_PKG_VERSION").into(),
                config: Some(description),
                clock: Some(clock),
                aarch64: Some(aarch64),
                board: Some(board),
                ..SavedMachine::default()
            },
            memory: machine.memory().clone(),
            pagemap: self.host.pagemap.try_clone().map_err(cloned)?,
            backing: machine.backing().cloned(),
            state_file: files.state,
            memory_file: files.memory,
            layers,
            hold_at,
            steps,
        };
        let started = Saver::start(job, &self.host.filters, Arc::clone(&self.saved));
        started.map_err(|source| RequestError::Host { what: "starting the saving thread", source })
    }

    /// Puts the paused machine into the state *saving*.
    fn saving(&mut self, was_running: bool) {
        self.state = match std::mem::replace(&mut self.state, State::Empty) {
            State::Paused(machine) => State::Saving { machine, was_running },
            other => other,
        };
    }

    /// Cancels the save that is under way; the machine returns to the state that it was in before.
    pub(super) fn cancel_save(&mut self) -> Result<Response, RequestError> {
        if !matches!(self.state, State::Saving { .. }) {
            return Err(self.wrong_state("cancel a save"));
        }
        if let Some(saver) = &self.saver {
            saver.cancel();
        }
        self.after_save(false);
        let error = RequestError::from(SaveError::Cancelled);
        self.save_response = Some(Response::Error(error.message()));
        let _ = self.saved.write(1); // the write fails only when the event is signalled already
        Ok(Response::Done(proto::Done {}))
    }

    /// Cancels the save of a machine whose guest requested a restart while it was being paused. A vCPU that has
    /// requested a restart never runs again, so there is nothing to save. The caller rebuilds the machine, running or
    /// paused as it was before the save.
    pub(super) fn give_up_save_of_restarted(&mut self) {
        let (machine, was_running) = match std::mem::replace(&mut self.state, State::Empty) {
            State::Saving { machine, was_running } => (machine, was_running),
            other => {
                self.state = other;
                return;
            }
        };
        self.saver = None; // cancels the save, and waits until the saver no longer uses the machine's memory
        self.state = if was_running { State::Running(machine) } else { State::Paused(machine) };
        self.save_response = Some(Response::Error(RequestError::from(SaveError::Restarted).message()));
        let _ = self.saved.write(1); // the write fails only when the event is signalled already
    }

    /// Leaves the state *saving*: the machine is paused afterwards, or runs again if the save failed and it ran before.
    fn after_save(&mut self, written: bool) {
        if let State::Saving { machine, was_running } = std::mem::replace(&mut self.state, State::Empty) {
            self.state = State::Paused(machine);
            if was_running && !written {
                self.go();
            }
        }
    }

    /// Returns the response for the clients that wait for the save, once the saver has finished or was cancelled.
    pub fn on_saved(&mut self) -> Option<Response> {
        let _ = self.saved.read(); // the read fails only when the event was read before
        if matches!(self.state, State::Saving { .. })
            && let Some(outcome) = self.saver.as_ref().and_then(Saver::take_outcome)
        {
            self.saver = None;
            self.after_save(outcome.is_ok());
            self.save_response = Some(match outcome {
                Ok(outcome) => {
                    let saved = outcome.message();
                    self.last_save = Some((saved.steps.clone(), saved.pages.clone()));
                    Response::Saved(saved)
                }
                Err(error) => Response::Error(RequestError::from(error).message()),
            });
        }
        self.save_response.take()
    }

    /// The id of the snapshot on which a diff would build; empty if there is none.
    pub(super) fn base_id(&self) -> Vec<u8> {
        let backing = self.state.machine().and_then(Machine::backing);
        backing.map(|backing| backing.base_id.clone()).unwrap_or_default()
    }

    /// Becomes readable when [`Self::on_saved`] is to be called.
    #[must_use]
    pub fn saved_signal(&self) -> BorrowedFd<'_> {
        crate::event_loop::borrow(&self.saved)
    }
}
