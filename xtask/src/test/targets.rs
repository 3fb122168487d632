//! Which cargo targets contain tests, and where each of them runs, from cargo's metadata: a target that no step runs is an error.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::suites::{SUITES, Suite};
use crate::command;
use crate::parts::Executable;

/// A cargo target with tests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    package: String,
    /// `lib`, `bin` or `test`.
    kind: String,
    name: String,
    required_features: Vec<String>,
}

/// The arguments of cargo that select all native tests of the workspace, given the enabled features.
pub(super) fn native(cargo: &mut Command, features: &[&str]) -> Result<Vec<String>> {
    let metadata = command::capture(cargo.args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let targets = parse(&metadata).context("cargo's metadata cannot be read")?;
    select(&targets, &SUITES, features)
}

fn parse(metadata: &str) -> Option<Vec<Target>> {
    let metadata: Value = serde_json::from_str(metadata).ok()?;
    let mut targets = Vec::new();
    for package in metadata.get("packages")?.as_array()? {
        for target in package.get("targets")?.as_array()? {
            let kind = target.get("kind")?.as_array()?.first()?.as_str()?;
            if target.get("test")?.as_bool()? && kind != "custom-build" {
                let features = target.get("required-features").and_then(Value::as_array);
                let features = features.into_iter().flatten().filter_map(Value::as_str);
                targets.push(Target {
                    package: package.get("name")?.as_str()?.to_owned(),
                    kind: kind.to_owned(),
                    name: target.get("name")?.as_str()?.to_owned(),
                    required_features: features.map(str::to_owned).collect(),
                });
            }
        }
    }
    Some(targets)
}

fn is(target: &Target, suite: &Suite) -> bool {
    let same = match suite.executable {
        Executable::Test(name) => target.kind == "test" && target.name == name,
        Executable::LibraryTest => target.kind == "lib",
        Executable::Binary(_) | Executable::OnlyBinary => false,
    };
    same && target.package == suite.package
}

/// Selects the targets that run natively: all but those that run only on the metal.
fn select(targets: &[Target], suites: &[Suite], features: &[&str]) -> Result<Vec<String>> {
    for suite in suites {
        if !targets.iter().any(|target| is(target, suite)) {
            bail!(
                "the step \"{}\" runs {:?} of {}, which does not exist",
                suite.title,
                suite.executable,
                suite.package
            );
        }
    }
    let (mut native, mut metal) = (BTreeSet::new(), BTreeSet::new());
    for target in targets {
        let suite = suites.iter().find(|suite| is(target, suite));
        if suite.is_some_and(|suite| !suite.natively) {
            metal.insert(target.name.as_str());
            continue;
        }
        let missing = target.required_features.iter().find(|feature| {
            let whole = format!("{}/{feature}", target.package);
            !features.contains(&whole.as_str())
        });
        match missing {
            Some(feature) if suite.is_none() => bail!(
                "no step runs the tests in the {} {} of {}: natively the feature {feature} is off, and no step on the metal \
                 names it (xtask/src/test/suites.rs); where it has none, say so with `test = false`",
                target.kind,
                target.name,
                target.package
            ),
            Some(_) => {}
            None if target.kind == "test" => {
                native.insert(target.name.as_str());
            }
            None => {}
        }
    }
    // Cargo selects integration tests by name, in all packages.
    if let Some(name) = native.intersection(&metal).next() {
        bail!(
            "the test {name} of one package runs on the metal only, and that of another natively: give them other names"
        );
    }
    let mut arguments = vec!["--lib".to_owned(), "--bins".to_owned()];
    arguments.extend(native.into_iter().flat_map(|name| ["--test".to_owned(), name.to_owned()]));
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(package: &str, kind: &str, name: &str, features: &[&str]) -> Target {
        let required_features = features.iter().map(|feature| (*feature).to_owned()).collect();
        Target { package: package.into(), kind: kind.into(), name: name.into(), required_features }
    }

    fn suite(package: &'static str, name: &'static str, natively: bool) -> Suite {
        Suite { package, executable: Executable::Test(name), natively, ..SUITES[0] }
    }

    #[test]
    fn what_is_not_of_the_metal_alone_runs_natively() {
        let targets = [
            target("a", "lib", "a", &[]),
            target("a", "test", "e2e", &[]),
            target("a", "test", "jail", &[]),
            target("b", "test", "new", &["x"]),
        ];
        let suites = [suite("a", "e2e", false), suite("a", "jail", true)];
        let selected = select(&targets, &suites, &["b/x"]).unwrap();
        assert_eq!(selected, ["--lib", "--bins", "--test", "jail", "--test", "new"]);
    }

    #[test]
    fn a_target_that_no_step_runs_is_an_error() {
        let error = select(&[target("b", "test", "new", &["x"])], &[], &[]).unwrap_err().to_string();
        assert!(error.contains("test new of b") && error.contains("feature x"), "{error}");
        let error = select(&[], &[suite("a", "gone", false)], &[]).unwrap_err().to_string();
        assert!(error.contains("gone") && error.contains("does not exist"), "{error}");
        let both = [target("a", "test", "e2e", &[]), target("b", "test", "e2e", &[])];
        assert!(select(&both, &[suite("a", "e2e", false)], &[]).is_err());
    }

    #[test]
    fn targets_with_tests_are_read_from_cargos_metadata() {
        let text = r#"{"packages": [{"name": "p", "targets": [
            {"kind": ["lib"], "name": "p", "test": true},
            {"kind": ["bin"], "name": "q", "test": true, "required-features": ["f"]},
            {"kind": ["bench"], "name": "r", "test": false},
            {"kind": ["custom-build"], "name": "build-script-build", "test": true}]}]}"#;
        assert_eq!(parse(text).unwrap(), [target("p", "lib", "p", &[]), target("p", "bin", "q", &["f"])]);
        assert!(parse("{}").is_none());
    }
}
