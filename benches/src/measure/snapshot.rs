//! Saving and restoring.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::golden::Place;
use super::{Measurement, Row, SETTLE, Setting, goal, lower};
use crate::vm::{self, Restore, Running, Save, Snapshot};

const FULL: [Row; 1] = [goal(0.5, lower("full snapshot of a paused guest", "ms"))];
const SPAWNED: [Row; 2] = [
    goal(0.5, lower("restore from process spawn: call", "ms")),
    lower("restore from process spawn: first vsock byte", "ms"),
];
const WAITING: [Row; 2] = [
    goal(0.5, lower("restore in a waiting process: call", "ms")),
    lower("restore in a waiting process: first vsock byte", "ms"),
];
const WAITING_SET: [Row; 2] = [
    lower("restore with working set: call", "ms"),
    lower("restore with working set: first vsock byte", "ms"),
];
const COLD: [Row; 3] = [
    lower("cold restore: call", "ms"),
    lower("cold restore: first vsock byte", "ms"),
    lower("cold restore: read from disk until then", "MiB"),
];
const COLD_SET: [Row; 3] = [
    lower("cold restore with working set: call", "ms"),
    lower("cold restore with working set: first vsock byte", "ms"),
    lower("cold restore with working set: read until then", "MiB"),
];
const SUSPEND_IDLE: [Row; 3] = [
    goal(0.1, lower("suspend of an idle restored guest", "ms")),
    lower("resume from that: call", "ms"),
    lower("resume from that: first vsock byte", "ms"),
];
const SUSPEND_DIRTY: [Row; 3] = [
    lower("suspend with 64 MiB dirty", "ms"),
    lower("resume with 64 MiB from the diff: call", "ms"),
    lower("resume with 64 MiB from the diff: first vsock byte", "ms"),
];
const DIFF_IDLE: [Row; 1] = [lower("suspend, idle, beside Firecracker's diff", "ms")];
const DIFF_DIRTY: [Row; 1] = [lower("suspend, 64 MiB dirty, beside Firecracker's diff", "ms")];

const SMALL: u64 = 256;
const MEDIUM: u64 = 1024;
const LARGE: u64 = 8192;
/// Rounds with a large guest, whose whole memory Firecracker writes.
const LARGE_ROUNDS: usize = 2;
/// MiB that a guest writes before it is suspended.
const DIRTY_MIB: u64 = 64;

const fn of(memory_mib: u64, measurement: Measurement) -> Measurement {
    Measurement { memory_mib: Some(memory_mib), ..measurement }
}

pub(super) const MEASUREMENTS: [Measurement; 16] = [
    of(SMALL, Measurement::new(&FULL, full)),
    of(SMALL, Measurement::new(&SPAWNED, spawned)),
    of(SMALL, Measurement::new(&WAITING, |setting| waiting(setting, false))),
    Measurement::new(&WAITING_SET, |setting| waiting(setting, true)),
    Measurement::new(&COLD, |setting| cold(setting, false)),
    Measurement::new(&COLD_SET, |setting| cold(setting, true)),
    Measurement::new(&SUSPEND_IDLE, |setting| suspend_and_resume(setting, 0)),
    Measurement::new(&SUSPEND_DIRTY, |setting| suspend_and_resume(setting, DIRTY_MIB)),
    Measurement::new(&DIFF_IDLE, |setting| diff(setting, 0)),
    Measurement::new(&DIFF_DIRTY, |setting| diff(setting, DIRTY_MIB)),
    of(MEDIUM, Measurement::new(&FULL, full)),
    of(MEDIUM, Measurement::new(&SPAWNED, spawned)),
    of(MEDIUM, Measurement::new(&WAITING, |setting| waiting(setting, false))),
    Measurement { most_rounds: LARGE_ROUNDS, ..of(LARGE, Measurement::new(&FULL, full)) },
    of(LARGE, Measurement::new(&SPAWNED, spawned)),
    of(LARGE, Measurement::new(&WAITING, |setting| waiting(setting, false))),
];

fn milliseconds(taken: Duration) -> f64 {
    taken.as_secs_f64() * 1e3
}

fn full(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let taken = setting.goldens.renew(setting.monitor, setting.memory_mib, Place::Default)?;
    Ok(vec![milliseconds(taken)])
}

/// Milliseconds from `started` to `restored`, and to the first byte of the guest's response.
fn call_and_first_byte(started: Instant, restored: Instant, running: &dyn Running) -> Result<Vec<f64>> {
    let answered = vm::first_byte(&running.vsock())?;
    Ok(vec![milliseconds(restored - started), milliseconds(answered - started)])
}

fn spawned(setting: &mut Setting<'_>) -> Result<Vec<f64>> {
    let snapshot = setting.goldens.get(setting.monitor, setting.memory_mib, Place::Default)?;
    let started = Instant::now();
    let process = setting.monitor.start(setting.folder)?;
    let running = process.restore(Restore::plain(setting.folder, &snapshot))?;
    call_and_first_byte(started, Instant::now(), running.as_ref())
}

fn waiting(setting: &mut Setting<'_>, with_working_set: bool) -> Result<Vec<f64>> {
    let (monitor, memory_mib) = (setting.monitor, setting.memory_mib);
    let snapshot = setting.goldens.get(monitor, memory_mib, Place::Default)?;
    let working_set = if with_working_set {
        setting.goldens.working_set(monitor, memory_mib, Place::Default)?
    } else {
        None
    };
    let mut process = monitor.start(setting.folder)?;
    process.prepare(memory_mib)?;
    thread::sleep(SETTLE);
    let started = Instant::now();
    let restore =
        Restore { working_set: working_set.as_deref(), ..Restore::plain(setting.folder, &snapshot) };
    let running = process.restore(restore)?;
    call_and_first_byte(started, Instant::now(), running.as_ref())
}

fn cold(setting: &mut Setting<'_>, with_working_set: bool) -> Result<Vec<f64>> {
    let (monitor, memory_mib) = (setting.monitor, setting.memory_mib);
    let snapshot = setting.goldens.get(monitor, memory_mib, Place::SlowDisk)?;
    let working_set = if with_working_set {
        setting.goldens.working_set(monitor, memory_mib, Place::SlowDisk)?
    } else {
        None
    };
    let mut process = monitor.start(setting.folder)?;
    process.prepare(memory_mib)?;
    thread::sleep(SETTLE);
    let disk = setting.goldens.slow_disk()?;
    disk.forget()?;
    let before = disk.bytes_read()?;
    let started = Instant::now();
    let restore =
        Restore { working_set: working_set.as_deref(), ..Restore::plain(setting.folder, &snapshot) };
    let running = process.restore(restore)?;
    let mut values = call_and_first_byte(started, Instant::now(), running.as_ref())?;
    let read = disk.bytes_read()? - before;
    values.push(read as f64 / f64::from(1 << 20));
    Ok(values)
}

/// Restores a guest in the folder `name` of the setting and has it write to `dirty_mib` MiB of its memory.
fn restored(
    setting: &Setting<'_>,
    name: &str,
    snapshot: &Snapshot,
    dirty_mib: u64,
    diff_later: bool,
) -> Result<Box<dyn Running>> {
    let folder = setting.folder.join(name);
    std::fs::create_dir(&folder).context("making a folder")?;
    let process = setting.monitor.start(&folder)?;
    let running = process.restore(Restore { diff_later, ..Restore::plain(&folder, snapshot) })?;
    vm::first_byte(&running.vsock())?;
    if dirty_mib > 0 {
        vm::command(&running.vsock(), &format!("mem-fill {dirty_mib}"))?;
    }
    Ok(running)
}

/// Pauses a guest and writes it into `folder`.
fn suspend(running: &mut dyn Running, how: Save, folder: &Path) -> Result<Duration> {
    std::fs::create_dir(folder).context("making a folder")?;
    let started = Instant::now();
    running.pause()?;
    running.save(how, folder)?;
    Ok(started.elapsed())
}

/// Uses each monitor's best way: Firecracker cannot resume from a diff before that is merged with its base.
fn suspend_and_resume(setting: &mut Setting<'_>, dirty_mib: u64) -> Result<Vec<f64>> {
    let monitor = setting.monitor;
    let snapshot = setting.goldens.get(monitor, setting.memory_mib, Place::Default)?;
    let saved = setting.folder.join("saved");
    let how = monitor.suspends_by();
    let mut running = restored(setting, "first", &snapshot, dirty_mib, false)?;
    let taken = suspend(running.as_mut(), how, &saved)?;
    drop(running);
    let mut suspended = Snapshot::full(&saved, setting.memory_mib);
    if how == Save::Diff {
        suspended.diff = Some(std::mem::replace(&mut suspended.memory, snapshot.memory));
    }

    let folder = setting.folder.join("second");
    std::fs::create_dir(&folder).context("making a folder")?;
    let mut process = monitor.start(&folder)?;
    process.prepare(setting.memory_mib)?;
    thread::sleep(SETTLE);
    let started = Instant::now();
    let running = process.restore(Restore::plain(&folder, &suspended))?;
    let mut values = vec![milliseconds(taken)];
    values.extend(call_and_first_byte(started, Instant::now(), running.as_ref())?);
    Ok(values)
}

fn diff(setting: &mut Setting<'_>, dirty_mib: u64) -> Result<Vec<f64>> {
    let snapshot = setting.goldens.get(setting.monitor, setting.memory_mib, Place::Default)?;
    let mut running = restored(setting, "first", &snapshot, dirty_mib, true)?;
    let taken = suspend(running.as_mut(), Save::Diff, &setting.folder.join("saved"))?;
    Ok(vec![milliseconds(taken)])
}
