//! Decides which suites share a boot of the metal, and which boots run at the same time.
//!
//! Booting the metal takes time, so suites with the same requirements run one after the other in one [`Boot`]. Emulated metal
//! leaves processors idle while it waits for a guest or a disk, so two boots run at once if the machine has enough memory.

use super::suites::{Processors, Suite, System};
use crate::metal::Cpu;

/// Memory of this machine in MiB that two emulated metals need at once: for the guests of both, and for emulation.
const BOTH_MIB: u64 = 18 << 10;

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

/// The lanes that run at the same time. `emulated_mib` is the available memory of this machine if metals are emulated. On real
/// hardware, all suites share one network and one kernel, and run one after the other.
pub(super) fn lanes(suites: &[Suite], processors: &[Cpu], emulated_mib: Option<u64>) -> Vec<Lane> {
    let (large, small): (Lane, Lane) =
        boots(suites, processors).into_iter().partition(|boot| boot.system.is_large());
    let lanes = if emulated_mib.is_some_and(|mib| mib >= BOTH_MIB) {
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

    fn names(lane: &Lane) -> Vec<Vec<&str>> {
        lane.iter().map(|boot| boot.suites.iter().map(|suite| suite.name).collect()).collect()
    }

    #[test]
    fn suites_that_find_the_same_share_a_boot() {
        let lanes = lanes(&SUITES, &BOTH, Some(BOTH_MIB));
        let names: Vec<_> = lanes.iter().map(names).collect();
        let small = vec!["monitor-library", "store", "network", "guest", "jail", "monitor"];
        assert_eq!(names, [vec![small, vec!["jail", "monitor"]], vec![vec!["images", "platform", "daemon"]]]);
        assert_eq!(lanes[0][0].system, System::Debian);
        assert_eq!((lanes[0][1].cpu, lanes[0][1].system), (Cpu::Max, System::Small));
        assert_eq!(lanes[1][0].system, System::Daemon);
    }

    #[test]
    fn where_there_is_no_room_they_run_one_after_the_other() {
        for memory in [None, Some(BOTH_MIB - 1)] {
            let lanes = lanes(&SUITES, &BOTH, memory);
            assert_eq!(lanes.len(), 1);
            assert_eq!(lanes[0].iter().map(|boot| boot.suites.len()).sum::<usize>(), 11);
        }
        assert_eq!(lanes(&SUITES[..1], &BOTH, Some(BOTH_MIB)).len(), 1);
    }
}
