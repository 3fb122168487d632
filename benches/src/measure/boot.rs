//! A guest's boot, and the cost of an idle one.

use std::time::Instant;

use anyhow::Result;

use super::{Measurement, Row, Setting, goal, lower};
use crate::memory::Memory;
use crate::vm;

const BOOT: [Row; 1] = [goal(1.0, lower("boot to the init's first word", "ms"))];
const IDLE: [Row; 2] = [
    goal(1.0, lower("private memory of an idle monitor", "KiB")),
    lower("anonymous memory with the idle guest", "MiB"),
];

pub(super) const MEASUREMENTS: [Measurement; 2] =
    [Measurement::new(&BOOT, boot), Measurement::new(&IDLE, idle)];

fn boot(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let started = Instant::now();
    let running = setting.ready()?;
    let taken = started.elapsed();
    drop(running);
    Ok(vec![taken.as_secs_f64() * 1e3])
}

/// Private memory of the process, without and with its guest's.
fn idle(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let running = setting.ready()?;
    vm::command(&running.vsock(), "ping")?;
    let memory = Memory::of(running.pid(), setting.memory_mib)?;
    Ok(vec![memory.private_kib as f64, memory.anonymous_kib as f64 / 1024.0])
}
