//! The state of the simulated host. It outlives the daemon, as processes and files do.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use hearth_model::build::ImageBuild;
use hearth_model::hooks::Hook;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::script::{Point, Script};
use crate::platform::Exit;

/// The error of a process that is gone.
pub(super) const GONE: &str = "its process is gone";

/// The state of a microVM on the host.
#[derive(Debug, Default)]
pub struct Vm {
    /// Number of the process that runs, if any.
    pub process: Option<u64>,
    /// Number of the suspended state, if any.
    pub suspended: Option<u64>,
    /// Hook calls that its guests received, each with the number of the process.
    pub hooks: Vec<(u64, Hook)>,
}

/// A process of a microVM, also one that has exited.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// How the process has exited by itself, as reported to the daemon.
    pub(super) exit: watch::Sender<Option<Exit>>,
    /// Whether the save under way is cancelled.
    pub(super) cancelled: watch::Sender<bool>,
    /// Number of the suspended state that the process was made from; 0 stands for the image.
    from: u64,
    /// Tasks that relay bytes between the process and the daemon.
    pub(super) relays: JoinSet<()>,
}

/// The state of the host.
#[derive(Debug, Default)]
pub struct World {
    /// MicroVMs by id.
    pub vms: HashMap<String, Vm>,
    /// The builds whose files exist.
    pub builds: HashSet<ImageBuild>,
    /// Addresses that serve the ports of all apps: servers of the test on the loopback device.
    pub ports: HashMap<u16, SocketAddr>,
    /// Number of connections that were opened to each port.
    pub connections: HashMap<u16, usize>,
    /// Operations that were requested, in order, with the microVM's id; without connections and shells.
    pub requests: Vec<(Point, Option<String>)>,
    pub(super) script: Script,
    processes: HashMap<u64, Process>,
    last: u64,
}

impl World {
    /// Number of a process that does not exist.
    pub(super) const NOBODY: u64 = 0;

    /// Starts a process, which replaces the microVM's former one.
    pub(super) fn begin(&mut self, id: &str, from: u64) -> u64 {
        self.end_process(id);
        self.last += 1;
        self.processes.insert(self.last, Process { from, ..Process::default() });
        self.vms.entry(id.to_owned()).or_default().process = Some(self.last);
        self.last
    }

    /// Ends the process of a microVM and its connections. No exit is reported.
    pub(super) fn end_process(&mut self, id: &str) {
        let ended = self.vms.get_mut(id).and_then(|vm| vm.process.take());
        if let Some(process) = ended.and_then(|number| self.processes.get_mut(&number)) {
            process.relays.abort_all();
        }
    }

    /// Removes everything of a microVM.
    pub(super) fn remove(&mut self, id: &str) {
        self.end_process(id);
        self.vms.remove(id);
    }

    /// A process; none if it never existed.
    pub(super) fn process(&mut self, number: u64) -> Option<&mut Process> {
        self.processes.get_mut(&number)
    }

    /// Whether a process runs as the process of this microVM.
    pub(super) fn runs(&self, id: &str, number: u64) -> bool {
        self.vms.get(id).is_some_and(|vm| vm.process == Some(number))
    }

    /// Whether a microVM was saved as `number` while its process, which was made from an earlier state, still runs
    /// although it should have exited.
    pub(super) fn is_committed(&self, id: &str, number: u64) -> bool {
        let Some(vm) = self.vms.get(id) else { return false };
        let from = vm.process.and_then(|process| self.processes.get(&process)).map(|process| process.from);
        vm.suspended == Some(number) && from.is_some_and(|from| from < number)
    }
}
