//! What there is on the host. It outlives the daemon, as processes and files do.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::script::{Point, Script};
use crate::platform::{Artifact, Exit, Hook};

/// What there is of a microVM.
#[derive(Debug, Default)]
pub struct Vm {
    /// Which of its processes runs.
    pub process: Option<u64>,
    /// Number of its suspended state.
    pub suspended: Option<u64>,
    /// Hooks that its guests were called, each with the process that got it.
    pub hooks: Vec<(u64, Hook)>,
}

/// A process of a microVM, also one that has ended.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// How it has ended by itself, as far as that is said.
    pub(super) exit: watch::Sender<Option<Exit>>,
    /// Whether the save that is under way is to be given up.
    pub(super) cancelled: watch::Sender<bool>,
    /// Number of the suspended state that it was made from; 0: its image.
    from: u64,
    /// What passes bytes between it and the daemon.
    pub(super) relays: JoinSet<()>,
}

/// The host.
#[derive(Debug, Default)]
pub struct World {
    /// Its microVMs.
    pub vms: HashMap<String, Vm>,
    /// The builds whose files are there.
    pub artifacts: HashSet<Artifact>,
    /// Where the ports of all apps are: servers of the test on the loopback device.
    pub ports: HashMap<u16, SocketAddr>,
    /// Connections that were opened to each port.
    pub connections: HashMap<u16, usize>,
    /// What was asked for, in order, and for which microVM; connections and shells are not among it.
    pub asked: Vec<(Point, Option<String>)>,
    pub(super) script: Script,
    processes: HashMap<u64, Process>,
    last: u64,
}

impl World {
    /// Number of a process that is none's.
    pub(super) const NOBODY: u64 = 0;

    /// A process begins, and takes the place of the microVM's former one.
    pub(super) fn begin(&mut self, id: &str, from: u64) -> u64 {
        self.end(id);
        self.last += 1;
        self.processes.insert(self.last, Process { from, ..Process::default() });
        self.vms.entry(id.to_owned()).or_default().process = Some(self.last);
        self.last
    }

    /// The process of a microVM ends with its connections. Nobody hears of that.
    pub(super) fn end(&mut self, id: &str) {
        let ended = self.vms.get_mut(id).and_then(|vm| vm.process.take());
        if let Some(process) = ended.and_then(|number| self.processes.get_mut(&number)) {
            process.relays.abort_all();
        }
    }

    /// All of a microVM is removed.
    pub(super) fn remove(&mut self, id: &str) {
        self.end(id);
        self.vms.remove(id);
    }

    /// A process, unless it never was.
    pub(super) fn process(&mut self, number: u64) -> Option<&mut Process> {
        self.processes.get_mut(&number)
    }

    /// Whether a process runs as this microVM's.
    pub(super) fn runs(&self, id: &str, number: u64) -> bool {
        self.vms.get(id).is_some_and(|vm| vm.process == Some(number))
    }

    /// Whether a microVM was saved as `number`, and its process, which was made from an earlier state, should have ended.
    pub(super) fn is_committed(&self, id: &str, number: u64) -> bool {
        let Some(vm) = self.vms.get(id) else { return false };
        let from = vm.process.and_then(|process| self.processes.get(&process)).map(|process| process.from);
        vm.suspended == Some(number) && from.is_some_and(|from| from < number)
    }
}
