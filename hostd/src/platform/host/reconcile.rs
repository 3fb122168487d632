//! Decides how to handle what an earlier daemon has left of a microVM.
//!
//! ```text
//!  process?  identified?  suspended-N exists,       machine    action
//!                         made from an earlier one
//!  no        –            –                         –          if suspended-N exists: Suspended, else Nothing
//!  yes       no           –                         –          half made: killed, then as without a process
//!  yes       yes          yes                       –          the suspend was committed: killed, Suspended
//!  yes       yes          no                        running    adopted
//!  yes       yes          no                        saving     the save is cancelled, then decided again
//!  yes       yes          no                        paused     resumed (a save that was not committed), adopted
//!  yes       yes          no                        another    killed, Nothing
//! ```
//!
//! An adopted microVM is thawed: a suspend that was under way had frozen its app.
//!
//! After a committed suspend the process must be killed: the overlay that it writes to may be a layer of the
//! suspended state already.

use hearth_proto::vmm::v1::MachineState;

/// What was found of a microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Observed {
    /// The state of the virtual machine, if the monitor lives and responds.
    pub(super) machine: Option<MachineState>,
    /// Whether the guest has received its identity.
    pub(super) identified: bool,
    /// Number of the suspended state that the process was made from; 0 stands for the image. None if unknown.
    pub(super) from: Option<u64>,
    /// Number of the requested suspended state.
    pub(super) requested: u64,
    /// Whether the requested suspended state exists.
    pub(super) suspended: bool,
}

/// What to do with the remains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Adopt the running microVM.
    Adopt,
    /// Cancel the save, and decide again.
    CancelSave,
    /// Resume the virtual machine, and decide again.
    Resume,
    /// Kill the process, if any. What remains is the suspended state or nothing.
    Kill {
        /// Whether the suspended state exists.
        suspended: bool,
    },
}

/// Decides what to do with the remains.
pub(super) fn decide(observed: Observed) -> Decision {
    let kill = Decision::Kill { suspended: observed.suspended };
    let (Some(machine), true, Some(from)) = (observed.machine, observed.identified, observed.from) else {
        return kill;
    };
    let committed = observed.suspended && from < observed.requested;
    if committed {
        return kill;
    }
    match machine {
        MachineState::Running => Decision::Adopt,
        MachineState::Saving => Decision::CancelSave,
        MachineState::Paused => Decision::Resume,
        MachineState::Unspecified | MachineState::Empty | MachineState::Created | MachineState::Exited => {
            kill
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: Observed = Observed {
        machine: Some(MachineState::Running),
        identified: true,
        from: Some(0),
        requested: 0,
        suspended: false,
    };

    #[test]
    fn what_runs_is_adopted_and_what_was_being_saved_goes_on() {
        assert_eq!(decide(RUNS), Decision::Adopt);
        let saving = Observed { machine: Some(MachineState::Saving), requested: 1, ..RUNS };
        assert_eq!(decide(saving), Decision::CancelSave);
        let paused = Observed { machine: Some(MachineState::Paused), ..saving };
        assert_eq!(decide(paused), Decision::Resume);
    }

    #[test]
    fn a_committed_suspend_ends_the_process_whatever_it_does() {
        for machine in [MachineState::Running, MachineState::Paused, MachineState::Saving] {
            let observed =
                Observed { machine: Some(machine), from: Some(2), requested: 3, suspended: true, ..RUNS };
            assert_eq!(decide(observed), Decision::Kill { suspended: true }, "{machine:?}");
        }
    }

    #[test]
    fn the_state_that_a_microvm_was_resumed_from_is_no_committed_suspend() {
        let observed = Observed { from: Some(3), requested: 3, suspended: true, ..RUNS };
        assert_eq!(decide(observed), Decision::Adopt);
    }

    #[test]
    fn without_a_process_the_state_alone_counts() {
        for suspended in [false, true] {
            let dead = Observed { machine: None, requested: 1, suspended, ..RUNS };
            assert_eq!(decide(dead), Decision::Kill { suspended });
            let half_made = Observed { identified: false, from: Some(1), requested: 1, suspended, ..RUNS };
            assert_eq!(decide(half_made), Decision::Kill { suspended });
            let unknown = Observed { from: None, suspended, ..RUNS };
            assert_eq!(decide(unknown), Decision::Kill { suspended });
        }
        let empty = Observed { machine: Some(MachineState::Empty), ..RUNS };
        assert_eq!(decide(empty), Decision::Kill { suspended: false });
    }
}
