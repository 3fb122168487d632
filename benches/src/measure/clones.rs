//! The cost of restored microVMs beside each other.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::golden::Place;
use super::{Measurement, Row, SETTLE, Setting, goal, lower};
use crate::memory::Memory;
use crate::vm::{self, Restore};

/// Number of microVMs that are restored in a row.
const CROWD: usize = 50;
/// Number of the first and of the last restores that are compared.
const ENDS: usize = 10;

const IDLE: [Row; 2] = [
    goal(1.0, lower("private memory of an idle clone", "MiB")),
    goal(1.0, lower("private memory of an idle clone, guest aside", "KiB")),
];
const SPAWNED: [Row; 2] = [
    lower("50 restores from process spawn, all kept: total", "ms"),
    lower("50 restores from process spawn: last ten over first", "x"),
];
const WAITING: [Row; 2] = [
    lower("50 restores in waiting processes, all kept: total", "ms"),
    lower("50 restores in waiting processes: last ten over first", "x"),
];
/// Rounds of measurements that take 50 restores.
const ROUNDS: usize = 3;

pub(super) const MEASUREMENTS: [Measurement; 3] = [
    Measurement::new(&IDLE, idle),
    Measurement { most_rounds: ROUNDS, ..Measurement::new(&SPAWNED, |setting| in_a_row(setting, false)) },
    Measurement { most_rounds: ROUNDS, ..Measurement::new(&WAITING, |setting| in_a_row(setting, true)) },
];

/// Anonymous memory: memory of files is shared with the other clones.
fn idle(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let snapshot = setting.goldens.get(setting.monitor, setting.memory_mib, Place::Default)?;
    let process = setting.monitor.start(setting.folder)?;
    let running = process.restore(Restore::plain(setting.folder, &snapshot))?;
    vm::first_byte(&running.vsock())?;
    let memory = Memory::of(running.pid(), setting.memory_mib)?;
    Ok(vec![memory.anonymous_kib as f64 / 1024.0, memory.own_anonymous_kib as f64])
}

/// Restores one microVM after another, each until the call returns; the earlier ones keep running.
fn in_a_row(setting: &mut Setting<'_>, waiting: bool) -> Result<Vec<f64>> {
    let snapshot = setting.goldens.get(setting.monitor, setting.memory_mib, Place::Default)?;
    let folders: Vec<PathBuf> = (0..CROWD).map(|number| setting.folder.join(number.to_string())).collect();
    let mut processes = Vec::new();
    for folder in &folders {
        std::fs::create_dir(folder).context("making a folder")?;
        if waiting {
            let mut process = setting.monitor.start(folder)?;
            process.prepare(setting.memory_mib)?;
            processes.push(process);
        }
    }
    thread::sleep(SETTLE);
    let mut processes = processes.into_iter();
    let (mut running, mut taken) = (Vec::new(), Vec::new());
    for folder in &folders {
        let started = Instant::now();
        let process = match processes.next() {
            Some(process) => process,
            None => setting.monitor.start(folder)?,
        };
        running.push(process.restore(Restore::plain(folder, &snapshot))?);
        taken.push(started.elapsed());
    }
    for one in &running {
        vm::first_byte(&one.vsock())?;
    }
    let sum = |times: &[Duration]| times.iter().sum::<Duration>().as_secs_f64();
    let (first, last) = (taken.get(..ENDS), taken.get(CROWD - ENDS..));
    let ratio = sum(last.unwrap_or_default()) / sum(first.unwrap_or_default());
    Ok(vec![sum(&taken) * 1e3, ratio])
}
