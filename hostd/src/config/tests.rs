//! Checks the shipped reference and service unit against the code.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Config, reference};

/// The reference, as it is shipped.
const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

#[test]
fn the_reference_is_made_from_the_types() {
    let page = reference::page();
    if std::env::var_os("HEARTH_WRITE").is_some() {
        fs::write(REFERENCE, &page).unwrap();
    }
    let shipped = fs::read_to_string(REFERENCE).unwrap();
    for (number, (shipped, made)) in (1..).zip(shipped.lines().zip(page.lines())) {
        assert_eq!(shipped, made, "{REFERENCE}, line {number}; its first lines say how to make it");
    }
    assert_eq!(shipped.len(), page.len(), "one is longer");
}

#[test]
fn the_ranges_of_the_reference_are_those_that_are_checked() {
    let ranged = reference::ranged();
    assert!(ranged.len() > 10);
    for reference::Ranged { section, key, min, max } in ranged {
        // It is checked where networks are opened.
        if (section.as_str(), key.as_str()) == ("[network]", "mtu") {
            continue;
        }
        let is_good = |value: i64| {
            let config = Config::parse(&format!("{section}\n{key} = {value}\n"));
            config.is_ok_and(|config| config.problems().is_empty())
        };
        for (inside, outside) in
            min.map(|min| (min, min - 1)).into_iter().chain(max.map(|max| (max, max + 1)))
        {
            assert!(is_good(inside), "{section} {key} = {inside}");
            assert!(!is_good(outside), "{section} {key} = {outside}");
        }
    }
}

#[test]
fn the_examples_of_the_reference_are_good() {
    let reference = fs::read_to_string(REFERENCE).unwrap();
    let examples: Vec<_> =
        reference.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
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
    let text = fs::read_to_string(&unit).unwrap();
    for needed in ["KillMode=process", "Delegate=yes"] {
        assert!(text.lines().any(|line| line == needed), "microVMs survive restarts: {needed}");
    }
    // systemd-analyze checks that the programs of the unit exist.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("hearthd.service");
    fs::write(&copy, text.replace("/usr/bin/hearthd", "/bin/sh")).unwrap();
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
