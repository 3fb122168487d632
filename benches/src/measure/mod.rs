//! The measurements. Each is taken of every monitor in turn, round after round, so that a drift of the host
//! affects all of them alike. One measurement may give several figures of one microVM's life.
//!
//! * [`boot`] – a guest's boot, and memory of an idle one
//! * [`devices`] – disks and vsock
//! * [`snapshot`] – saving and restoring
//! * [`clones`] – the cost of restored microVMs beside each other
//! * [`golden`] – the snapshots that are restored

mod boot;
mod clones;
mod devices;
mod golden;
mod snapshot;

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::memory;
use crate::vm::{Guest, Monitor, Running};
use hearth_benches::report::{Better, Figure, Samples};

use golden::Goldens;

/// The plan of the measurements.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// How often each figure is taken.
    pub(crate) rounds: usize,
    /// Guest memory in MiB of measurements that set none.
    pub(crate) memory_mib: u64,
    /// Only measurements with one of these texts in their names are taken; all if there are none.
    pub(crate) only: &'a [String],
}

/// One figure of a measurement.
#[derive(Debug, Clone, Copy)]
struct Row {
    name: &'static str,
    unit: &'static str,
    better: Better,
    /// Goal: the highest ratio to Firecracker, if there is a goal.
    goal: Option<f64>,
}

const fn lower(name: &'static str, unit: &'static str) -> Row {
    Row { name, unit, better: Better::Lower, goal: None }
}

const fn higher(name: &'static str, unit: &'static str) -> Row {
    Row { name, unit, better: Better::Higher, goal: None }
}

const fn goal(goal: f64, row: Row) -> Row {
    Row { goal: Some(goal), ..row }
}

/// A measurement.
struct Measurement {
    /// The figures that it gives, in order.
    rows: &'static [Row],
    /// Guest memory in MiB of the measurement, if it is fixed; the rows' names contain it then.
    memory_mib: Option<u64>,
    /// Maximum number of rounds, for measurements that take long.
    most_rounds: usize,
    /// Whether the measurement needs a monitor with overlays.
    overlay: bool,
    take: fn(&mut Setting<'_>) -> Result<Vec<f64>>,
}

impl Measurement {
    const fn new(rows: &'static [Row], take: fn(&mut Setting<'_>) -> Result<Vec<f64>>) -> Self {
        Self { rows, memory_mib: None, most_rounds: usize::MAX, overlay: false, take }
    }

    fn name(&self, row: &Row) -> String {
        match self.memory_mib {
            None => row.name.to_owned(),
            Some(mib) if mib.is_multiple_of(1024) => format!("{}, {} GiB", row.name, mib / 1024),
            Some(mib) => format!("{}, {mib} MiB", row.name),
        }
    }

    fn is_wanted(&self, only: &[String]) -> bool {
        let named = |row| only.iter().any(|text| self.name(row).contains(text.as_str()));
        only.is_empty() || self.rows.iter().any(named)
    }
}

/// The environment of one sample.
struct Setting<'a> {
    monitor: &'a dyn Monitor,
    /// A separate folder for the sample.
    folder: &'a Path,
    memory_mib: u64,
    goldens: &'a mut Goldens,
}

impl Setting<'_> {
    /// Boots a guest without disks and waits until it accepts commands.
    fn ready(&self) -> Result<Box<dyn Running>> {
        ready(
            self.monitor,
            self.folder,
            Guest { memory_mib: self.memory_mib, disk: None, saved_later: false },
        )
    }
}

/// Boots a guest and waits until it accepts commands.
fn ready(monitor: &dyn Monitor, folder: &Path, guest: Guest<'_>) -> Result<Box<dyn Running>> {
    let mut running = monitor.boot(folder, guest)?;
    running.wait_until_ready()?;
    Ok(running)
}

/// Time for processes that were ended before, or just started, to come to rest. In icount mode, work that the host still does
/// would otherwise be counted.
const SETTLE: Duration = Duration::from_millis(50);

/// Memory in MiB that the host needs in addition to a guest's.
const HOST_MIB: u64 = 1024;

/// Results of all measurements.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) figures: Vec<Figure>,
    /// Whether a monitor failed in a measurement; its figures are those from before.
    pub(crate) failed: bool,
}

/// Takes all measurements of the plan.
pub(crate) fn all(monitors: &[&dyn Monitor], plan: &Plan<'_>) -> Result<Results> {
    let mut results = Results { figures: Vec::new(), failed: false };
    let mut goldens = Goldens::default();
    let here = memory::total_mib()?;
    let groups: [&[Measurement]; 4] =
        [&boot::MEASUREMENTS, &devices::MEASUREMENTS, &snapshot::MEASUREMENTS, &clones::MEASUREMENTS];
    let mut wanted: Vec<_> = groups.into_iter().flatten().filter(|one| one.is_wanted(plan.only)).collect();
    // Measurements of one size are taken together, because a large guest's snapshots cannot be kept for later.
    wanted.sort_by_key(|measurement| measurement.memory_mib.unwrap_or(plan.memory_mib));
    for measurement in wanted {
        let memory_mib = measurement.memory_mib.unwrap_or(plan.memory_mib);
        // The guest's size counts once: a large guest's snapshot is written without its guest's memory being there.
        if memory_mib.saturating_add(HOST_MIB) > here {
            for row in measurement.rows {
                eprintln!(
                    "{}: left out, this host has {here} MiB of memory; on emulated metal, --memory {} is enough",
                    measurement.name(row),
                    memory_mib + memory_mib / 4 + HOST_MIB
                );
            }
            continue;
        }
        goldens.keep_only(memory_mib);
        take(measurement, monitors, plan, memory_mib, &mut goldens, &mut results);
    }
    Ok(results)
}

/// Takes one measurement, in as many rounds as planned.
fn take(
    measurement: &Measurement,
    monitors: &[&dyn Monitor],
    plan: &Plan<'_>,
    memory_mib: u64,
    goldens: &mut Goldens,
    results: &mut Results,
) {
    let able = monitors.iter().filter(|monitor| !measurement.overlay || monitor.has_overlays());
    let mut able: Vec<&dyn Monitor> = able.copied().collect();
    let mut taken: Vec<(&'static str, Vec<Vec<f64>>)> =
        able.iter().map(|monitor| (monitor.name(), Vec::new())).collect();
    for round in 0..plan.rounds.min(measurement.most_rounds) {
        able.retain(|monitor| {
            let values = match one(measurement, *monitor, memory_mib, goldens) {
                Ok(values) => values,
                Err(error) => {
                    let name = measurement.rows.first().map(|row| measurement.name(row)).unwrap_or_default();
                    eprintln!("measuring {name} of {}, round {round}: {error:#}", monitor.name());
                    results.failed = true;
                    return false;
                }
            };
            for (row, value) in measurement.rows.iter().zip(&values) {
                let name = measurement.name(row);
                eprintln!("{name:<56} {:<12} {value:>12.2} {}", monitor.name(), row.unit);
            }
            if let Some((_, rounds)) = taken.iter_mut().find(|(name, _)| *name == monitor.name()) {
                rounds.push(values);
            }
            true
        });
    }
    for (index, row) in measurement.rows.iter().enumerate() {
        let samples = taken.iter().filter(|(_, rounds)| !rounds.is_empty()).map(|(name, rounds)| {
            Samples::new(name, rounds.iter().filter_map(|values| values.get(index).copied()).collect())
        });
        results.figures.push(Figure {
            name: measurement.name(row),
            unit: row.unit,
            better: row.better,
            goal: row.goal,
            samples: samples.collect(),
        });
    }
}

/// Takes one sample in a separate folder.
fn one(
    measurement: &Measurement,
    monitor: &dyn Monitor,
    memory_mib: u64,
    goldens: &mut Goldens,
) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir().context("making a folder")?;
    thread::sleep(SETTLE);
    (measurement.take)(&mut Setting { monitor, folder: folder.path(), memory_mib, goldens })
}
