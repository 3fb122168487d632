//! Decides which suites share a boot of the metal, and which boots run at the same time.
//!
//! Booting the metal takes time, so suites with the same requirements run one after the other in one [`Boot`]. An emulated metal uses
//! two processors, so two boots run at once if the machine has twice as many, and memory for both. On two processors they would only
//! hold each other up: a processor of a metal that does not run keeps the other one waiting for its locks.

use super::suites::{Processors, Suite, System};
use crate::command;
use crate::first_run;
use crate::metal::Cpu;

/// Memory of this machine in MiB that two emulated metals need at once: for the guests of both, and for emulation.
const BOTH_MIB: u64 = 18 << 10;
/// Processors of this machine that two emulated metals need at once.
const BOTH_PROCESSORS: usize = 4;

/// What this machine has for emulated metals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Available memory in MiB.
    pub(super) memory_mib: u64,
    pub(super) processors: usize,
}

impl Room {
    /// What this machine has now, if the kernel says so.
    pub(super) fn here() -> Option<Self> {
        Some(Self { memory_mib: first_run::available_mib()?, processors: command::cores() })
    }

    fn has_both(self) -> bool {
        self.memory_mib >= BOTH_MIB && self.processors >= BOTH_PROCESSORS
    }
}

/// Suites that run one after the other on one metal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Boot {
    pub(super) cpu: Cpu,
    /// The largest requirements of any of the suites.
    pub(super) system: System,
    pub(super) suites: Vec<Suite>,
}

/// Boots that run one after the other.
pub(super) type Lane = Vec<Boot>;

/// The boots that suites need on these processors, in the order of their first suites.
fn boots(suites: &[Suite], processors: &[Cpu]) -> Vec<Boot> {
    let mut boots: Vec<Boot> = Vec::new();
    for cpu in processors {
        for suite in suites.iter().filter(|suite| suite.on(processors).contains(cpu)) {
            let same =
                |boot: &&mut Boot| boot.cpu == *cpu && boot.system.is_large() == suite.system.is_large();
            match boots.iter_mut().find(same) {
                Some(boot) => {
                    boot.system = boot.system.max(suite.system);
                    boot.suites.push(*suite);
                }
                None => boots.push(Boot { cpu: *cpu, system: suite.system, suites: vec![*suite] }),
            }
        }
    }
    boots
}

/// The lanes that run at the same time. `emulated` is what this machine has if metals are emulated. On real hardware, all suites
/// share one network and one kernel, and run one after the other.
pub(super) fn lanes(suites: &[Suite], processors: &[Cpu], emulated: Option<Room>) -> Vec<Lane> {
    let (large, small): (Lane, Lane) =
        boots(suites, processors).into_iter().partition(|boot| boot.system.is_large());
    let lanes = if emulated.is_some_and(Room::has_both) {
        vec![small, large]
    } else {
        vec![small.into_iter().chain(large).collect()]
    };
    lanes.into_iter().filter(|lane| !lane.is_empty()).collect()
}

impl Boot {
    /// Title of a suite's step.
    pub(super) fn title(&self, suite: &Suite, processors: &[Cpu]) -> String {
        match suite.processors {
            Processors::Each | Processors::Part(_) if processors.len() > 1 => {
                format!("{} ({})", suite.title, self.cpu.title())
            }
            _ => suite.title.to_owned(),
        }
    }

    /// Prefix of the lines of this boot's output.
    pub(super) fn prefix(&self) -> String {
        let kind = if self.system.is_large() { "images" } else { "monitor" };
        format!("{kind}, {} | ", self.cpu.title())
    }
}

#[cfg(test)]
mod tests {
    use super::super::suites::SUITES;
    use super::*;

    const BOTH: [Cpu; 2] = [Cpu::NeoverseN1, Cpu::Max];
    const ENOUGH: Room = Room { memory_mib: BOTH_MIB, processors: BOTH_PROCESSORS };

    fn names(lane: &Lane) -> Vec<Vec<&str>> {
        lane.iter().map(|boot| boot.suites.iter().map(|suite| suite.name).collect()).collect()
    }

    #[test]
    fn suites_that_find_the_same_share_a_boot() {
        let lanes = lanes(&SUITES, &BOTH, Some(ENOUGH));
        let names: Vec<_> = lanes.iter().map(names).collect();
        let small = vec!["monitor-library", "store", "network", "guest", "jail", "monitor"];
        assert_eq!(
            names,
            [vec![small, vec!["jail", "monitor"]], vec![vec!["images", "platform", "daemon", "projects"]]]
        );
        assert_eq!(lanes[0][0].system, System::Debian);
        assert_eq!((lanes[0][1].cpu, lanes[0][1].system), (Cpu::Max, System::Small));
        assert_eq!(lanes[1][0].system, System::Daemon);
    }

    #[test]
    fn where_there_is_no_room_they_run_one_after_the_other() {
        let little = Room { memory_mib: BOTH_MIB - 1, ..ENOUGH };
        let few = Room { processors: BOTH_PROCESSORS - 1, ..ENOUGH };
        for room in [None, Some(little), Some(few)] {
            let lanes = lanes(&SUITES, &BOTH, room);
            assert_eq!(lanes.len(), 1);
            assert_eq!(lanes[0].iter().map(|boot| boot.suites.len()).sum::<usize>(), 12);
        }
        assert_eq!(lanes(&SUITES[..1], &BOTH, Some(ENOUGH)).len(), 1);
    }
}
