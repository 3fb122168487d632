//! What restored microVMs cost beside each other.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::golden::Place;
use super::{Measurement, Row, Setting, goal, lower};
use crate::memory::Memory;
use crate::vm::{self, Restore};

/// How many are restored in a row.
const CROWD: usize = 50;
/// How many of the first and of the last are compared.
const ENDS: usize = 10;

const IDLE: [Row; 2] = [
    goal(1.0, lower("private memory of an idle clone", "MiB")),
    goal(1.0, lower("private memory of an idle clone, guest aside", "KiB")),
];
const IN_A_ROW: [Row; 2] = [
    goal(0.5, lower("50 restores in a row, all kept: total", "ms")),
    lower("50 restores in a row: last ten over first ten", "x"),
];

pub(super) const MEASUREMENTS: [Measurement; 2] =
    [Measurement::new(&IDLE, idle), Measurement { most_rounds: 3, ..Measurement::new(&IN_A_ROW, in_a_row) }];

/// What belongs to no file: files are shared with the other clones.
fn idle(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let snapshot = setting.goldens.get(setting.monitor, setting.memory_mib, Place::Default)?;
    let process = setting.monitor.start(setting.folder)?;
    let running = process.restore(Restore::plain(setting.folder, &snapshot))?;
    vm::first_byte(&running.vsock())?;
    let memory = Memory::of(running.pid(), setting.memory_mib)?;
    Ok(vec![memory.anonymous_kib as f64 / 1024.0, memory.own_anonymous_kib as f64])
}

/// From process spawn to the end of the call, one after another; those before run on.
fn in_a_row(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let snapshot = setting.goldens.get(setting.monitor, setting.memory_mib, Place::Default)?;
    let mut running = Vec::with_capacity(CROWD);
    let mut taken = Vec::with_capacity(CROWD);
    for number in 0..CROWD {
        let folder = setting.folder.join(number.to_string());
        std::fs::create_dir(&folder).context("making a folder")?;
        let started = Instant::now();
        let process = setting.monitor.start(&folder)?;
        running.push(process.restore(Restore::plain(&folder, &snapshot))?);
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
