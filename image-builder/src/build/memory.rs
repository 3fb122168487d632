//! Processes of a build that are killed because the builder has no memory left.
//!
//! That a process was killed says the kernel's counter `oom_kill` (`/proc/vmstat`), which is read before and after. Which process, and
//! during which step, says the kernel's log, which is followed meanwhile; without it the counter counts alone. An exit status of 137
//! says neither: anybody can kill a process.

use hearth_agent_protocol::kernel_log::killed;
use hearth_model::shape::MemoryClass;
use hearth_model::text::harmless;

use super::settings::BuilderLimits;

/// Prints the counter.
pub(super) const COUNT: &str =
    "while read -r name count; do [ \"$name\" = oom_kill ] && echo \"$count\"; done < /proc/vmstat; true";
/// Prints the kernel's log from the first line on, and what it writes from then on.
pub(super) const LOG: &str = "exec cat /run/disks/kmsg";
/// Most victims that are remembered.
const VICTIMS: usize = 16;
/// Most bytes of a process's name: the kernel has fewer.
const NAME: usize = 32;

/// What was killed during a build.
#[derive(Debug, Default)]
pub(super) struct Victims {
    /// The counter before the build, if it could be read.
    before: Option<u64>,
    /// How many steps had begun, and the process's name.
    seen: Vec<(usize, String)>,
}

impl Victims {
    /// With the counter before the build, as [`COUNT`] has printed it.
    pub(super) fn since(printed: Option<&str>) -> Self {
        Self { before: printed.and_then(parse_count), seen: Vec::new() }
    }

    /// Takes a line of the kernel's log; `steps` is how many steps have begun.
    pub(super) fn line(&mut self, steps: usize, line: &[u8]) {
        if let Some(name) = killed(line) {
            let name = harmless(name.as_bytes(), NAME);
            if self.seen.len() == VICTIMS {
                self.seen.remove(0);
            }
            self.seen.push((steps, name));
        }
    }

    /// The processes that were killed since the step began before which, with it, so many had begun – an empty name where only their
    /// number is known –, or none, if none was. Steps of other stages may have run at the same time. `printed` is the counter after the
    /// build.
    pub(super) fn of_step(&self, printed: Option<&str>, begun: usize) -> Option<String> {
        let (before, after) = (self.before?, printed.and_then(parse_count)?);
        if after <= before {
            return None;
        }
        if self.seen.is_empty() {
            return Some(String::new());
        }
        let mut names: Vec<&str> =
            self.seen.iter().filter(|(step, _)| *step >= begun).map(|(_, name)| name.as_str()).collect();
        names.dedup();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

/// The sentence for a step whose processes were killed.
pub(super) fn explain(what: &str, victims: &str, limits: &BuilderLimits, class: MemoryClass) -> String {
    let has = limits.memory_of(class);
    let who = if victims.is_empty() { String::new() } else { format!(" ({victims})") };
    let larger = MemoryClass::all().find(|other| *other > class && limits.memory_of(*other) > has);
    let hint = match larger {
        Some(larger) => format!(
            "Use a larger memory class (minimumMemoryInMiB: {} has {} MiB), or have the step use less.",
            larger.mib(),
            limits.memory_of(larger)
        ),
        None => "No memory class has more on this host (builder.memory_max_mib): have the step use less."
            .to_owned(),
    };
    format!("{what} was killed{who}: out of memory; the builder has {has} MiB. {hint}")
}

fn parse_count(printed: &str) -> Option<u64> {
    printed.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KILLED: &[u8] =
        b"3,812,77190,-;Out of memory: Killed process 71 (cc1plus) total-vm:1200kB, anon-rss:1100kB";

    #[test]
    fn the_counter_decides_and_the_log_tells_whom_it_was() {
        let mut victims = Victims::since(Some("3\n"));
        assert_eq!(victims.of_step(Some("3\n"), 2), None, "nothing was killed");
        assert_eq!(victims.of_step(Some("4\n"), 2).as_deref(), Some(""), "the log was not followed");
        victims.line(2, b"6,1,2,-;an ordinary line");
        victims.line(2, KILLED);
        assert_eq!(victims.of_step(Some("4\n"), 2).as_deref(), Some("cc1plus"));
        assert_eq!(
            victims.of_step(Some("4\n"), 1).as_deref(),
            Some("cc1plus"),
            "another stage's step began later"
        );
        assert_eq!(victims.of_step(Some("4\n"), 5), None, "an earlier step lived on");
        assert_eq!(victims.of_step(Some("3\n"), 2), None, "the log alone proves nothing");
        for unknown in [None, Some(""), Some("x")] {
            assert_eq!(Victims::since(unknown).of_step(Some("4"), 0), None);
            assert_eq!(victims.of_step(unknown, 2), None);
        }
        for _ in 0..1000 {
            victims.line(2, KILLED);
        }
        assert_eq!(victims.of_step(Some("9"), 2).as_deref(), Some("cc1plus"));
    }

    #[test]
    fn the_class_that_has_more_is_named() {
        let limits =
            BuilderLimits { memory_mib: 1536, memory_max_mib: 4096, vcpus: 2, time: Duration::from_secs(1) };
        let told =
            |mib: u32| explain("Step 2/2 (RUN x)", "python3", &limits, MemoryClass::try_from(mib).unwrap());
        assert_eq!(
            told(512),
            "Step 2/2 (RUN x) was killed (python3): out of memory; the builder has 1536 MiB. Use a larger memory class \
             (minimumMemoryInMiB: 2048 has 2048 MiB), or have the step use less."
        );
        assert!(told(2048).contains(
            "the builder has 2048 MiB. Use a larger memory class (minimumMemoryInMiB: 4096 has 4096 MiB)"
        ));
        assert!(told(8192).ends_with(
            "the builder has 4096 MiB. No memory class has more on this host (builder.memory_max_mib): have the step use less."
        ));
    }
}
