//! Builders that are killed: the next one finds and removes all leftovers.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::support::{Site, monitors};

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
const SAMPLE: [&str; 2] = ["build the container image", "validate a clone"];

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

#[tokio::test]
async fn a_killed_builder_leaves_nothing_that_the_next_one_does_not_remove() {
    let Some(site) = Site::new() else { return };
    let steps = if std::env::var_os("HEARTH_FULL").is_some() { &ALL[..] } else { &SAMPLE };
    for step in steps {
        let out = site.folder.path().join("killed.image");
        let mut builder = start(&site, &out);
        let lines = BufReader::new(builder.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut events = Vec::new();
        let reached = lines
            .inspect(|line| events.push(line.clone()))
            .any(|line| line.contains(step) && line.ends_with('…'));
        builder.kill().unwrap();
        builder.wait().unwrap();
        assert!(reached, "never came to `{step}`: {events:#?}");
        assert!(!out.exists(), "half an image at `{step}`");
        println!("killed at `{step}`: {} monitors are left", monitors());
        drop(site.builder());
        site.assert_clean();
    }
}
