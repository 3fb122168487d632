//! The programs with tests that run on the metal.

use super::{Cpu, daemon};
use crate::parts::{Executable, ProgramRequest};
use crate::toolchain::Link;

/// The tests of one cargo target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suite {
    /// Name for `--only`, and of the program on the metal.
    pub(super) name: &'static str,
    /// Title of the step.
    pub(super) title: &'static str,
    /// Package of the target.
    pub(super) package: &'static str,
    /// The cargo target.
    pub(super) executable: Executable,
    /// Its requirements on the metal.
    pub(super) system: System,
    /// How it is linked: statically if it runs where there is no C library, or copies itself into a guest or a jail.
    pub(super) link: Link,
    /// Whether its tests also run on this machine, except those that are skipped here.
    pub(super) natively: bool,
    /// The processors that it runs on.
    pub(super) processors: Processors,
    /// How many of its tests run at the same time: two if none of them looks at what the others leave on the metal, or has it to itself then.
    /// One guest seldom keeps both processors of the metal busy.
    pub(super) at_once: u8,
}

/// Requirements of a suite on the metal, in addition to the monitor, the test guest and the guest OS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum System {
    /// Busybox.
    Small,
    /// Debian's programs.
    Debian,
    /// Debian's programs, base images, the examples and the image builder, and memory for builds.
    Images,
    /// All of [`Self::Images`], with the daemon and its client.
    Daemon,
}

/// The processors that a suite runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Processors {
    /// One processor, because nothing in the suite depends on it.
    One,
    /// Each processor.
    Each,
    /// The smallest processor for all tests; others only for tests whose names begin with one of these, unless all are requested.
    Part(&'static [&'static str]),
}

/// The tests of a library that this machine does not have, because they are in code for another architecture.
pub(super) const FOREIGN: &str = "monitor-library";

/// The public projects, of which only some run unless all are wanted.
pub(super) const PROJECTS: &str = "projects";
/// Where they are in the program that they share with the daemon's other tests.
pub(super) const IN_PROJECTS: &str = "projects::";
/// The test of them that is about no project.
pub(super) const NAMES_OF_THE_HOST: &str = "names_of_the_host";

/// All suites, in the order in which they run: those that fail fastest come first.
pub(super) const SUITES: [Suite; 10] = [
    Suite {
        name: FOREIGN,
        title: "monitor's code for aarch64",
        package: "hearth-vmm",
        executable: Executable::LibraryTest,
        system: System::Small,
        link: Link::Static,
        natively: true,
        processors: Processors::One,
        at_once: 1,
    },
    Suite {
        name: "store",
        title: "hearthd's store on the metal",
        package: daemon::PACKAGE,
        executable: Executable::Test("rocks"),
        system: System::Debian,
        link: Link::Dynamic,
        natively: false,
        processors: Processors::One,
        at_once: 1,
    },
    Suite {
        name: "network",
        title: "networks on the metal",
        package: "hearth-host",
        executable: Executable::Test("network"),
        system: System::Debian,
        link: Link::Dynamic,
        natively: true,
        processors: Processors::One,
        at_once: 1,
    },
    Suite {
        name: "guest",
        title: "guest OS on the metal",
        package: "hearth-guest",
        executable: Executable::Test("e2e"),
        system: System::Small,
        link: Link::Static,
        natively: false,
        processors: Processors::One,
        at_once: 2,
    },
    Suite {
        name: "jail",
        title: "jail on the metal",
        package: "hearth-vmm-jail",
        executable: Executable::Test("jail"),
        system: System::Small,
        link: Link::Static,
        natively: true,
        processors: Processors::Each,
        at_once: 1,
    },
    Suite {
        name: "monitor",
        title: "end-to-end tests of the monitor",
        package: "hearth-vmm",
        executable: Executable::Test("e2e"),
        system: System::Small,
        link: Link::Static,
        natively: false,
        // Those about registers, counters, page tables and states of the processor. What takes minutes is left to full runs.
        processors: Processors::Part(&[
            "clocks::",
            "cpus::",
            "diffs::a_suspend_holds_all_that_has_changed",
            "goldens::",
            "lifecycle::a_guest_with_four_vcpus",
            "snapshots::a_restored_guest",
        ]),
        at_once: 2,
    },
    Suite {
        name: "images",
        title: "images on the metal",
        package: "hearth-image-builder",
        executable: Executable::Test("e2e"),
        system: System::Images,
        link: Link::Dynamic,
        natively: false,
        processors: Processors::One,
        at_once: 2,
    },
    Suite {
        name: "platform",
        title: "hearthd's platform on the metal",
        package: daemon::PACKAGE,
        executable: Executable::Test("platform"),
        system: System::Images,
        link: Link::Dynamic,
        natively: false,
        processors: Processors::One,
        at_once: 1,
    },
    Suite {
        name: "daemon",
        title: "hearthd on the metal",
        package: daemon::PACKAGE,
        executable: Executable::Test("e2e"),
        system: System::Daemon,
        link: Link::Dynamic,
        natively: false,
        processors: Processors::One,
        at_once: 1,
    },
    Suite {
        name: PROJECTS,
        title: "public projects on the metal",
        package: daemon::PACKAGE,
        executable: Executable::Test("e2e"),
        system: System::Daemon,
        link: Link::Dynamic,
        natively: false,
        processors: Processors::One,
        at_once: 1,
    },
];

impl System {
    /// Whether it needs the memory and the disk for builds.
    pub(super) fn is_large(self) -> bool {
        matches!(self, Self::Images | Self::Daemon)
    }
}

impl Suite {
    /// Its program.
    pub(super) fn program(&self) -> ProgramRequest<'static> {
        ProgramRequest { package: self.package, executable: self.executable, name: self.name }
    }

    /// The suite with this name.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        SUITES.into_iter().find(|suite| suite.name == name).ok_or_else(|| {
            let names = SUITES.map(|suite| suite.name).join(", ");
            format!("there are {names}")
        })
    }

    /// The tests that run on a processor: all, or those whose names begin with one of these.
    pub(super) fn part(&self, cpu: Cpu, full: bool) -> &'static [&'static str] {
        match self.processors {
            Processors::Part(names) if cpu != Cpu::NeoverseN1 && !full => names,
            _ => &[],
        }
    }

    /// The processors among these that the suite runs on.
    pub(super) fn on<'a>(&self, processors: &'a [Cpu]) -> &'a [Cpu] {
        match self.processors {
            Processors::One => processors.get(..1).unwrap_or_default(),
            Processors::Each | Processors::Part(_) => processors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_found_by_its_name() {
        assert_eq!(Suite::named("guest").unwrap().package, "hearth-guest");
        assert!(Suite::named("gust").unwrap_err().contains("guest, "));
    }

    #[test]
    fn what_does_not_depend_on_the_processor_runs_once() {
        let all = [Cpu::NeoverseN1, Cpu::Max];
        let suite = |name| Suite::named(name).unwrap();
        assert_eq!(suite("images").on(&all), [Cpu::NeoverseN1]);
        assert_eq!(suite("jail").on(&all), all);
        assert!(suite("monitor").part(Cpu::NeoverseN1, false).is_empty());
        assert!(suite("monitor").part(Cpu::Max, false).contains(&"cpus::"));
        assert!(suite("monitor").part(Cpu::Max, true).is_empty());
    }
}
