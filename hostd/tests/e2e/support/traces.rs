//! What microVMs leave on a host: processes, networks, cgroups, folders.

use std::fs;
use std::path::Path;

use hearth_vmm_client::Client;
use rustix::process::{Pid, Signal, kill_process};

use super::app::control_socket;
use super::site::Site;

/// Process ids of all monitors on this host.
pub(crate) fn monitors() -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let monitors = processes.filter(|process| {
        fs::read_to_string(process.path().join("comm")).is_ok_and(|name| name.trim() == "hearth-vmm")
    });
    monitors.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

/// Names of microVMs' network namespaces.
pub(crate) fn networks() -> Vec<String> {
    let mut names = entries(Path::new("/run/netns"));
    names.retain(|name| name.starts_with("hearth-"));
    names
}

/// The process id of a microVM's monitor, as the monitor reports it.
pub(crate) fn monitor_of(id: &str) -> i32 {
    let status = Client::connect(control_socket(id)).unwrap().status().unwrap();
    i32::try_from(status.pid).unwrap()
}

/// Kills a process with SIGKILL.
pub(crate) fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

/// Stops a process: connections to it succeed as before, and it does not respond.
pub(crate) fn silence(pid: i32) {
    signal(pid, Signal::STOP);
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Whether nothing is left of a microVM: neither run directory nor folder.
pub(crate) fn is_gone(id: &str) -> bool {
    let site = Site::get().unwrap();
    [site.run(), site.data()].iter().all(|folder| !folder.join("microvms").join(id).exists())
}

/// The names in a folder; none if the folder does not exist.
pub(crate) fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Checks that nothing of any microVM is left: no process, network, folder or cgroup.
pub(crate) fn assert_none(site: &Site) {
    assert_eq!(monitors(), Vec::<i32>::new(), "monitors that nobody owns");
    assert_eq!(networks(), Vec::<String>::new(), "networks that nobody owns");
    let (data, run) = (site.data(), site.run());
    for folder in [data.join("microvms"), run.join("microvms"), run.join("pool"), data.join("work/builds")] {
        assert_eq!(entries(&folder), Vec::<String>::new(), "left in {}", folder.display());
    }
    let mut cgroups = Vec::new();
    groups(Path::new("/sys/fs/cgroup"), &mut cgroups);
    cgroups.retain(|name| name.contains("/vm-"));
    assert_eq!(cgroups, Vec::<String>::new(), "cgroups that nobody owns");
}

/// All cgroups below a folder.
fn groups(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path().to_string_lossy().into_owned());
            groups(&entry.path(), found);
        }
    }
}
