//! Builders that are killed: the next one finds and removes all leftovers.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::support::{Site, groups, monitors};

/// Steps, by the texts with which the program announces them.
const ALL: [&str; 7] = [
    "fetch the artifact",
    "start the builder microVM",
    "build the container image",
    "write the root disk",
    "boot and start the app",
    "take the snapshot",
    "validate a clone",
];
/// Steps at which a builder is killed in each run of the tests; the others need a full run.
const SAMPLE: [&str; 2] = [BUILDING, "validate a clone"];
/// The step in which the builder microVM runs.
const BUILDING: &str = "build the container image";

fn start(site: &Site, out: &Path) -> Child {
    let mut command = Command::new(&site.metal.program);
    command.args([
        "build",
        "--memory",
        "512",
        "--burst",
        "1",
        "--ready=60",
        "--validate=60",
        "--hooks-port",
        "8080",
    ]);
    command.arg("--artifact").arg(site.metal.examples.join("counter")).arg("--out").arg(out);
    command.arg("--catalogue").arg(&site.metal.catalogue).arg("--work").arg(site.work());
    command.arg("--vmm").arg(&site.metal.vmm).stderr(Stdio::piped()).stdout(Stdio::null());
    command.spawn().unwrap()
}

/// Checks that the builder microVM's process has a user id and a control group of its own.
fn assert_is_bounded() {
    let (monitors, groups) = (monitors(), groups());
    let ([monitor], [group]) = (&monitors[..], &groups[..]) else { panic!("{monitors:?} {groups:?}") };
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let status = read(monitor.join("status"));
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()).unwrap();
    assert_eq!(group.file_name().unwrap().to_str(), Some(&*format!("build-{uid}")));
    assert!((1_900_000_001..1_900_065_537).contains(&uid.parse::<u32>().unwrap()), "{uid}");
    let pid = monitor.file_name().unwrap().to_str().unwrap();
    assert_eq!(read(group.join("cgroup.procs")).trim(), pid);
    // Without a configuration the builder has the default class's memory, and its share.
    assert_eq!(read(group.join("cpu.weight")).trim(), "100");
    assert_eq!(read(group.join("pids.max")).trim(), "256");
    // Its disks lie in memory here, which would be its own.
    assert_eq!(read(group.join("memory.max")).trim(), "max");
}

#[tokio::test]
async fn a_killed_builder_leaves_nothing_that_the_next_one_does_not_remove() {
    let Some(site) = Site::alone() else { return };
    let steps = if hearth_testing::full() { &ALL[..] } else { &SAMPLE };
    for step in steps {
        let out = site.folder.path().join("killed.image");
        let mut builder = start(&site, &out);
        let lines = BufReader::new(builder.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut events = Vec::new();
        let reached = lines
            .inspect(|line| events.push(line.clone()))
            .any(|line| line.contains(step) && line.ends_with('…'));
        if *step == BUILDING {
            assert_is_bounded();
        }
        builder.kill().unwrap();
        builder.wait().unwrap();
        assert!(reached, "never came to `{step}`: {events:#?}");
        assert!(!out.exists(), "half an image at `{step}`");
        println!("killed at `{step}`: {} monitors are left", monitors().len());
        drop(site.builder());
        site.assert_clean();
    }
}
