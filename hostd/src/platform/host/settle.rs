//! What an earlier daemon has left of a microVM, and what is to be done with it.
//!
//! ```text
//!  process?  identified?  suspended-N there,        machine    what is done
//!                         made from an earlier one
//!  no        –            –                         –          suspended-N there: Suspended, else Nothing
//!  yes       no           –                         –          half made: ended, then as without a process
//!  yes       yes          yes                       –          the suspend was committed: ended, Suspended
//!  yes       yes          no                        running    adopted
//!  yes       yes          no                        saving     the save is cancelled, then again
//!  yes       yes          no                        paused     resumed (it was saved, and nobody committed that), adopted
//!  yes       yes          no                        another    ended, Nothing
//! ```
//!
//! What is adopted is thawed: the suspend that was under way had frozen its app.
//!
//! A committed state must end the process: the overlay that it writes to may be the state's layer already.

use hearth_proto::vmm::v1::MachineState;

/// What is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The monitor's answer, if it lives and answers.
    pub(super) machine: Option<MachineState>,
    /// Whether its guest was told who it is.
    pub(super) identified: bool,
    /// The number of the suspended state it was made from; 0: its image. None: not known.
    pub(super) from: Option<u64>,
    /// The number of the suspended state that is asked for.
    pub(super) asked: u64,
    /// Whether that is there.
    pub(super) suspended: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// It runs: go on with it.
    Adopt,
    /// Cancel the save, and look again.
    CancelSave,
    /// Let it go on, and look again.
    Resume,
    /// End what there is. The suspended state is what is found, or nothing.
    End {
        /// Whether the suspended state is there.
        suspended: bool,
    },
}

/// Decides.
pub(super) fn decide(seen: Seen) -> Decision {
    let end = Decision::End { suspended: seen.suspended };
    let (Some(machine), true, Some(from)) = (seen.machine, seen.identified, seen.from) else { return end };
    let committed = seen.suspended && from < seen.asked;
    if committed {
        return end;
    }
    match machine {
        MachineState::Running => Decision::Adopt,
        MachineState::Saving => Decision::CancelSave,
        MachineState::Paused => Decision::Resume,
        MachineState::Unspecified | MachineState::Empty | MachineState::Created | MachineState::Exited => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: Seen = Seen {
        machine: Some(MachineState::Running),
        identified: true,
        from: Some(0),
        asked: 0,
        suspended: false,
    };

    #[test]
    fn what_runs_is_adopted_and_what_was_being_saved_goes_on() {
        assert_eq!(decide(RUNS), Decision::Adopt);
        let saving = Seen { machine: Some(MachineState::Saving), asked: 1, ..RUNS };
        assert_eq!(decide(saving), Decision::CancelSave);
        let paused = Seen { machine: Some(MachineState::Paused), ..saving };
        assert_eq!(decide(paused), Decision::Resume);
    }

    #[test]
    fn a_committed_suspend_ends_the_process_whatever_it_does() {
        for machine in [MachineState::Running, MachineState::Paused, MachineState::Saving] {
            let seen = Seen { machine: Some(machine), from: Some(2), asked: 3, suspended: true, ..RUNS };
            assert_eq!(decide(seen), Decision::End { suspended: true }, "{machine:?}");
        }
    }

    #[test]
    fn the_state_that_a_microvm_was_resumed_from_is_no_committed_suspend() {
        let seen = Seen { from: Some(3), asked: 3, suspended: true, ..RUNS };
        assert_eq!(decide(seen), Decision::Adopt);
    }

    #[test]
    fn without_a_process_the_state_alone_counts() {
        for suspended in [false, true] {
            let dead = Seen { machine: None, asked: 1, suspended, ..RUNS };
            assert_eq!(decide(dead), Decision::End { suspended });
            let half_made = Seen { identified: false, from: Some(1), asked: 1, suspended, ..RUNS };
            assert_eq!(decide(half_made), Decision::End { suspended });
            let unknown = Seen { from: None, suspended, ..RUNS };
            assert_eq!(decide(unknown), Decision::End { suspended });
        }
        let empty = Seen { machine: Some(MachineState::Empty), ..RUNS };
        assert_eq!(decide(empty), Decision::End { suspended: false });
    }
}
