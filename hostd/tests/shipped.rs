//! Checks of shipped files: the service unit, the profiles for building programs, and the page about threats.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

const UNIT: &str = include_str!("../packaging/hearthd.service");
const WORKSPACE: &str = include_str!("../../Cargo.toml");
const THREATS: &str = include_str!("../../docs/threat-model.md");

/// The settings of a unit by section.
fn unit() -> BTreeMap<(String, String), String> {
    let mut section = String::new();
    let mut found = BTreeMap::new();
    for line in UNIT.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = name.to_owned(),
            None => {
                let (key, value) = line.split_once('=').unwrap();
                found.insert((section.clone(), key.to_owned()), value.to_owned());
            }
        }
    }
    found
}

#[test]
fn the_unit_starts_the_daemon_again_however_often_it_ends() {
    let unit = unit();
    for (section, key, value) in [
        // Since systemd 230 this is a setting of [Unit]; in other sections it is ignored.
        ("Unit", "StartLimitIntervalSec", "0"),
        ("Service", "Restart", "always"),
        ("Service", "RestartSec", "1"),
        // Processes that the daemon has started keep running.
        ("Service", "KillMode", "process"),
    ] {
        assert_eq!(unit.get(&(section.to_owned(), key.to_owned())).map(String::as_str), Some(value), "{key}");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    // The daemon is not installed where this test runs.
    let unit = UNIT.replace("/usr/bin/hearthd", "/bin/true");
    let path = folder.path().join("hearthd.service");
    std::fs::write(&path, unit).unwrap();
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
    let output = verified.expect("`cargo xtask test` installs systemd");
    let said = String::from_utf8_lossy(&output.stderr);
    // The output also covers other units of this machine.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("hearthd.service")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

/// A setting of a profile, either its own or inherited.
fn setting(profiles: &toml::Table, profile: &str, key: &str) -> Option<toml::Value> {
    let found = profiles.get(profile)?.as_table()?;
    let inherited = || setting(profiles, found.get("inherits")?.as_str()?, key);
    found.get(key).cloned().or_else(inherited)
}

#[test]
fn the_daemon_unwinds_and_everything_else_aborts() {
    let workspace: toml::Table = WORKSPACE.parse().unwrap();
    let profiles = workspace["profile"].as_table().unwrap();
    let panic = |profile| setting(profiles, profile, "panic");
    for profile in ["release", "metal"] {
        assert_eq!(panic(profile), Some("abort".into()), "{profile}: the monitor's and the guest's");
    }
    for profile in ["daemon", "metal-daemon"] {
        assert_eq!(panic(profile), Some("unwind".into()), "{profile}");
        assert_eq!(setting(profiles, profile, "overflow-checks"), Some(true.into()), "{profile}");
    }
}

/// Adds the names of all functions below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            functions(&path, found);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn the_threat_model_names_tests_that_exist() {
    let mut known = BTreeSet::new();
    functions(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut known);
    let named = THREATS.split('`').skip(1).step_by(2);
    let tests: Vec<_> = named.filter(|name| name.matches('_').count() > 2).collect();
    assert!(tests.len() > 50, "{tests:?}");
    let unknown: Vec<_> = tests.iter().filter(|name| !known.contains(**name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
