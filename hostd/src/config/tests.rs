//! Checks the shipped reference and service unit against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use toml::{Table, Value};

use super::Config;

const REFERENCE: &str = include_str!("../../../docs/configuration.md");
/// The mark in the reference for a key without a default.
const NONE: &str = "–";

/// The keys of a section according to serde: those in the error message about an unknown key.
fn known_keys(section: &str) -> BTreeSet<String> {
    let head = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
    let error = toml::from_str::<Config>(&format!("{head}__none = 1\n")).unwrap_err().to_string();
    let expected = error.split("expected ").nth(1).unwrap_or_else(|| panic!("[{section}]: {error}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every key with its default, sections and keys as dotted names; those without a default have none.
fn defaults() -> BTreeMap<String, BTreeMap<String, Option<Value>>> {
    let mut sections = BTreeMap::new();
    gather("", &Table::try_from(Config::default()).unwrap(), &mut sections);
    sections
}

fn gather(section: &str, table: &Table, sections: &mut BTreeMap<String, BTreeMap<String, Option<Value>>>) {
    let mut keys = BTreeMap::new();
    for key in known_keys(section) {
        match table.get(&key) {
            // Maps that are empty by default are values; all other tables are sections.
            Some(Value::Table(inner)) if !inner.is_empty() => {
                let name = if section.is_empty() { key } else { format!("{section}.{key}") };
                gather(&name, inner, sections);
            }
            value => drop(keys.insert(key, value.cloned())),
        }
    }
    sections.insert(section.to_owned(), keys);
}

/// The tables of the reference: sections (by the headings ``## `[name]` ``), keys, defaults.
fn documented() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = None;
    for line in REFERENCE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = match heading {
                "Top level" => Some(String::new()),
                other => other.strip_prefix("`[").and_then(|name| name.strip_suffix("]`")).map(str::to_owned),
            };
            continue;
        }
        let (Some(section), Some(row)) = (&section, line.strip_prefix("| `")) else { continue };
        let mut cells = row.split(" | ");
        let key = cells.next().unwrap().trim().trim_end_matches('`');
        let default = cells.next().unwrap().trim().trim_matches('`');
        let known = sections.entry(section.clone()).or_default().insert(key.to_owned(), default.to_owned());
        assert_eq!(known, None, "[{section}] has {key} twice");
    }
    sections
}

#[test]
fn the_reference_has_every_key_with_its_default_and_no_other() {
    let mut written = documented();
    for (section, keys) in defaults() {
        let mut rows = written.remove(&section).unwrap_or_default();
        for (key, default) in keys {
            let row = rows.remove(&key).unwrap_or_else(|| panic!("the reference lacks [{section}] {key}"));
            match default {
                None => assert_eq!(row, NONE, "[{section}] {key}"),
                Some(default) => {
                    let table: Table = toml::from_str(&format!("value = {row}"))
                        .unwrap_or_else(|error| panic!("[{section}] {key}: {error}"));
                    assert_eq!(table.get("value"), Some(&default), "[{section}] {key}");
                }
            }
        }
        assert!(rows.is_empty(), "there are no such keys in [{section}]: {:?}", rows.keys());
    }
    // Sections with a name that the operator chooses, and optional sections, are not in the defaults.
    let named: Vec<_> = written.keys().map(String::as_str).collect();
    let listed = [
        "[access.certificates]",
        "[access.keys]",
        "artifacts.registries.HOST",
        "endpoint.acme",
        "quotas.rates.OPERATION",
        "roles.rules.ROLE",
    ];
    assert_eq!(named, listed);
    for section in listed {
        let keys: BTreeSet<_> = written.remove(section).unwrap().into_keys().collect();
        assert_eq!(keys, known_keys(section), "{section}");
    }
}

#[test]
fn the_examples_of_the_reference_are_good() {
    let examples: Vec<_> =
        REFERENCE.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let config =
            Config::parse(example).unwrap_or_else(|(line, why)| panic!("line {line}: {why} in\n{example}"));
        assert_eq!(config.problems(), [], "{example}");
    }
}

#[test]
fn systemd_takes_the_service_unit() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/hearthd.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    for needed in ["KillMode=process", "Delegate=yes"] {
        assert!(text.lines().any(|line| line == needed), "microVMs survive restarts: {needed}");
    }
    // systemd-analyze checks that the programs of the unit exist.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("hearthd.service");
    std::fs::write(&copy, text.replace("/usr/bin/hearthd", "/bin/sh")).unwrap();
    match Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&copy).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("systemd-analyze is not there: the unit was not looked at");
        }
        Err(error) => panic!("{error}"),
        Ok(done) => {
            let told = String::from_utf8_lossy(&done.stderr);
            let about: Vec<_> = told.lines().filter(|line| line.contains("hearthd.service")).collect();
            assert!(about.is_empty() && done.status.success(), "{told}");
        }
    }
}
