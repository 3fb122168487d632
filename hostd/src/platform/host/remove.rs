//! Termination of monitors, and removal of the remains of microVMs.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use hearth_host::microvm::orphans;
use hearth_host::microvm::process::Process;
use hearth_model::build::ImageBuild;
use hearth_model::id::MicrovmId;

use super::error::{HostError, failed};
use super::exclusive::TURN;
use super::layout::{PREFIX, Place, names, remove_folder};
use super::monitors::EXIT_TIMEOUT;
use super::phase::Phase;
use super::record::{MonitorRecord, Record as _, RunRecord};
use super::{Host, logs};
use crate::aside::Aside;

/// How long the host waits for the last output lines of a guest that is discarded.
const LINES: Duration = Duration::from_secs(1);

/// Kills the monitor that the records of a run directory name, without a request to its guest.
pub(super) fn end_monitor(run: &Path, record: Option<&MonitorRecord>) -> io::Result<()> {
    let Some(record) = record else { return orphans::end_monitor(run) };
    match Process::find(&record.process)? {
        Some(process) => process.end(EXIT_TIMEOUT),
        None => Ok(()),
    }
}

impl Host {
    /// Kills the monitor of a microVM, and removes its network, control group and run directory, in whatever state
    /// they are.
    pub(super) fn end_run(&self, place: &Place) -> Result<(), HostError> {
        let run = &place.run;
        // With two callers at once, ids and names that the first releases might belong to another microVM when the
        // second removes them.
        let _held = self.ending.hold(run, TURN).map_err(failed("removing", run))?;
        if !run.exists() {
            return Ok(());
        }
        let monitor = MonitorRecord::read(run).map_err(failed("reading the records in", run))?;
        let microvm = RunRecord::read(run).map_err(failed("reading the records in", run))?;
        end_monitor(run, monitor.as_ref()).map_err(failed("ending the monitor in", run))?;
        if let Some(name) = microvm.and_then(|record| record.network) {
            self.link_factory.remove(&name)?;
        }
        if let Some(record) = &monitor {
            self.groups.remove(record.uid)?;
        }
        // The records are removed last: they list what exists.
        remove_folder(run).map_err(failed("removing", run))?;
        if let Some(record) = monitor {
            self.in_use.release_uid(record.uid);
        }
        Ok(())
    }

    /// Terminates a microVM and removes everything of it. After a restoration of the store, files that nobody has looked at are set aside.
    pub(super) async fn remove(self: &std::sync::Arc<Self>, id: &MicrovmId) -> Result<(), HostError> {
        self.discard(id, self.restoration.aside_of(id)).await?;
        self.restoration.settle(id);
        Ok(())
    }

    /// Terminates a microVM and removes what it has in the run directory. Its folder of files that outlive a reboot is removed or
    /// set aside.
    pub(super) async fn discard(
        self: &std::sync::Arc<Self>,
        id: &MicrovmId,
        aside: Option<Aside>,
    ) -> Result<(), HostError> {
        let place = self.layout.microvm(id);
        // From now on every earlier attempt with this microVM counts as given up.
        let attempt = self.attempts.begin(id);
        if let Some(microvm) = self.forget(id) {
            if !microvm.parts.process.has_exited() && *microvm.phase.borrow() == Phase::Running {
                logs::drain(microvm.agent(), LINES).await;
            }
            microvm.stop_serving();
        }
        let host = std::sync::Arc::clone(self);
        let removed = tokio::task::spawn_blocking(move || {
            // The monitor is killed first, so that no thread that holds the folder's lock waits for it any longer.
            host.end_run(&place)?;
            let _turn = host.making.hold(&place.state, TURN).map_err(failed("removing", &place.state))?;
            host.end_run(&place)?;
            match aside {
                Some(aside) if place.state.exists() => set_aside(&aside, &place.state, host.layout.data())?,
                _ => remove_folder(&place.state).map_err(failed("removing", &place.state))?,
            }
            host.attempts.forget(&attempt);
            Ok(())
        });
        removed.await?
    }

    /// Removes networks and control groups that belong neither to a microVM nor to the pool, and kills monitors that
    /// an earlier daemon had in its pool.
    pub(super) fn sweep_host(&self) -> Result<(), HostError> {
        let pool = self.layout.pool();
        for name in names(&pool).map_err(failed("reading", &pool))? {
            let uid = name.strip_prefix(PREFIX).and_then(|uid| uid.parse().ok());
            if uid.is_some_and(|uid| self.in_use.has_uid(uid)) {
                continue;
            }
            let folder = pool.join(&name);
            let record = MonitorRecord::read(&folder).map_err(failed("reading the records in", &folder))?;
            end_monitor(&folder, record.as_ref()).map_err(failed("ending the monitor in", &folder))?;
            remove_folder(&folder).map_err(failed("removing", &folder))?;
        }
        self.networks.sweep(|name| !name.starts_with(PREFIX) || self.in_use.has_network(name))?;
        for uid in self.groups.uids().map_err(HostError::Groups)? {
            if !self.in_use.has_uid(uid) {
                self.groups.remove(uid)?;
            }
        }
        Ok(())
    }

    /// Removes the files of all builds that are not in `keep`, or sets them aside.
    pub(super) fn sweep_builds(
        &self,
        keep: &HashSet<ImageBuild>,
        aside: Option<&Aside>,
    ) -> Result<(), HostError> {
        let keep: HashSet<_> = keep.iter().map(|build| self.layout.build(build)).collect();
        // ACCOUNT/UID/VERSION/BUILD
        sweep_below(&self.layout.images(), 4, &|path| keep.contains(path), &|path| match aside {
            Some(aside) => set_aside(aside, path, self.layout.data()),
            None => discard(path),
        })
    }

    /// The names of all folders of microVMs, which are the microVMs' ids.
    pub(super) fn all(&self) -> Result<HashSet<String>, HostError> {
        let mut all = HashSet::new();
        for folder in [self.layout.runs(), self.layout.states()] {
            all.extend(names(&folder).map_err(failed("reading", &folder))?);
        }
        Ok(all)
    }
}

/// Moves a folder below `data` to what is set aside, where it has the same path.
pub(super) fn set_aside(aside: &Aside, path: &Path, data: &Path) -> Result<(), HostError> {
    let name = path.strip_prefix(data).unwrap_or(path);
    aside.take(path, name).map_err(failed("setting aside", path))
}

/// Removes a folder or a file.
fn discard(path: &Path) -> Result<(), HostError> {
    let removed = if path.is_dir() { remove_folder(path) } else { super::layout::remove_file(path) };
    removed.map_err(failed("removing", path))
}

/// Discards the entries `depth` folders below `folder` that are not kept, and removes folders that become empty.
fn sweep_below(
    folder: &Path,
    depth: u32,
    keep: &dyn Fn(&Path) -> bool,
    discard: &dyn Fn(&Path) -> Result<(), HostError>,
) -> Result<(), HostError> {
    for name in names(folder).map_err(failed("reading", folder))? {
        let path = folder.join(name);
        if depth > 1 && path.is_dir() {
            sweep_below(&path, depth - 1, keep, discard)?;
            let _ = fs::remove_dir(&path); // only if it is empty
        } else if !keep(&path) {
            discard(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_builds_that_a_restored_store_does_not_know_are_set_aside() {
        let data = tempfile::tempdir().unwrap();
        let aside = Aside::announce(data.path(), std::time::SystemTime::UNIX_EPOCH).unwrap();
        let images = data.path().join("images");
        let (kept, unknown) = (images.join("1/uid/1/b1"), images.join("1/other/1/b2"));
        for build in [&kept, &unknown] {
            fs::create_dir_all(build.join("snapshot")).unwrap();
        }
        sweep_below(&images, 4, &|path| path == kept, &|path| set_aside(&aside, path, data.path())).unwrap();
        assert!(kept.exists() && !images.join("1/other").exists());
        assert!(data.path().join("set-aside/0/images/1/other/1/b2/snapshot").exists());
    }

    #[test]
    fn files_of_builds_go_unless_they_are_kept() {
        let images = tempfile::tempdir().unwrap();
        let build = |path: &str| {
            let path = images.path().join(path);
            fs::create_dir_all(path.join("snapshot")).unwrap();
            path
        };
        let (kept, swept) = (build("1/uid/1/b1"), build("1/uid/1/b2"));
        let (_, other) = (build("1/uid/2/b3"), build("2/other/1/b4"));
        fs::write(images.path().join("1/uid/stray"), "").unwrap();
        sweep_below(images.path(), 4, &|path| path == kept, &discard).unwrap();
        assert!(kept.join("snapshot").exists() && !swept.exists() && !other.exists());
        assert_eq!(names(&images.path().join("1/uid")).unwrap(), ["1"]);
        assert_eq!(names(images.path()).unwrap(), ["1"]);
    }

    #[test]
    fn a_recorded_process_is_ended_and_another_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        let mut record = MonitorRecord { process: process.identity().clone(), uid: 1 };
        record.process.start_time += 1;
        end_monitor(folder.path(), Some(&record)).unwrap();
        assert!(!process.has_exited(), "another one that has got its id");
        record.process.start_time -= 1;
        end_monitor(folder.path(), Some(&record)).unwrap();
        assert!(process.has_exited());
        end_monitor(folder.path(), Some(&record)).unwrap();
        end_monitor(folder.path(), None).unwrap();
        let _ = child.wait();
    }
}
