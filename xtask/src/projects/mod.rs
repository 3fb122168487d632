//! Public projects, as others write them, whose Dockerfiles are built on the metal in tests (`hostd/tests/e2e/projects/`).
//!
//! `tests/projects/NAME/` is what a project has in its repository, `projects.json` says what is expected of it, and `images.json` what is in
//! the images that the Dockerfiles begin with. Those are made here, of Debian's packages, with the programs that the public images add to
//! them as far as the projects need these ([`images`]), and become the store of a registry ([`store`]), which the test starts and names
//! as a mirror of Docker Hub: so the Dockerfiles have public names in them, and no test depends on Docker Hub.
//!
//! With `--full` all of them run. Where the suite runs by itself and no project is named, a pair runs which the date chooses, of those that take
//! five minutes at most together.

mod images;
mod store;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cache::Cache;
use crate::command;
use crate::metal::Job;
use crate::parts::Parts;
use crate::toolchain;
use images::Image;

/// The projects, in the workspace.
const FOLDER: &str = "tests/projects";
/// Name of the disk with the registry's store.
const DISK: &str = "registry";
/// Name of the folder with the projects among the inputs.
const INPUT: &str = "public-projects";
/// What two projects may take together where not all run, in seconds on the emulated metal.
const PAIR_SECONDS: u64 = 300;

/// A project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Project {
    /// Name of its folder and of its test.
    pub(crate) name: String,
    /// The images that its Dockerfile names.
    images: Vec<String>,
    /// How long its test takes on the emulated metal.
    seconds: u64,
}

impl Project {
    /// All projects.
    fn all() -> Result<Vec<Self>> {
        let path = toolchain::repository()?.join(FOLDER).join("projects.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        parse(&text).with_context(|| format!("{} is not a list of projects", path.display()))
    }

    /// Those that run: all, or those whose names have one of these words in them, or those of today.
    pub(crate) fn chosen(full: bool, words: &[&str]) -> Result<Vec<Self>> {
        let all = Self::all()?;
        if !words.is_empty() {
            let is_meant = |project: &Self| words.iter().any(|word| project.name.contains(word));
            let chosen: Vec<Self> = all.iter().filter(|project| is_meant(project)).cloned().collect();
            if chosen.is_empty() {
                let names: Vec<&str> = all.iter().map(|project| project.name.as_str()).collect();
                bail!(
                    "no project has `{}` in its name; there are {}",
                    words.join("` or `"),
                    names.join(", ")
                );
            }
            return Ok(chosen);
        }
        if full {
            return Ok(all);
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        pair(&all, seconds / 86_400).context("no two projects are short enough to run together")
    }
}

fn parse(text: &str) -> Option<Vec<Project>> {
    let projects: Value = serde_json::from_str(text).ok()?;
    let project = |project: &Value| {
        let images = project.get("images")?.as_array()?.iter().map(|image| Some(image.as_str()?.to_owned()));
        Some(Project {
            name: project.get("name")?.as_str()?.to_owned(),
            images: images.collect::<Option<_>>()?,
            seconds: project.get("seconds")?.as_u64()?,
        })
    };
    projects.as_array()?.iter().map(project).collect()
}

/// Two projects that are short enough together; another pair on each day.
fn pair(all: &[Project], day: u64) -> Option<Vec<Project>> {
    let mut pairs = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let others = all.iter().skip(index + 1);
        pairs.extend(
            others.filter(|other| one.seconds + other.seconds <= PAIR_SECONDS).map(|other| [one, other]),
        );
    }
    let place = day.checked_rem(u64::try_from(pairs.len()).ok()?)?;
    let chosen = pairs.get(usize::try_from(place).ok()?)?;
    Some(chosen.iter().map(|project| (*project).clone()).collect())
}

/// The inputs of the metal for these projects.
#[derive(Debug)]
pub(crate) struct Projects {
    registry: PathBuf,
}

impl Projects {
    /// Makes the images that the cache does not have, one after the other, and the registry's disk; adds the projects to the parts.
    pub(crate) fn prepare(cache: &Cache, chosen: &[Project], parts: &mut Parts) -> Result<Self> {
        let folder = toolchain::repository()?.join(FOLDER);
        let known = Image::all(&folder)?;
        let tree = parts.path("registry");
        fs::create_dir_all(&tree)?;
        let mut wanted: Vec<&String> = chosen.iter().flat_map(|project| &project.images).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for reference in wanted {
            let image = known.iter().find(|image| image.reference() == *reference);
            let image = image.with_context(|| format!("images.json has no {reference}"))?;
            let made = image.prepare(cache, &folder)?;
            command::run(Command::new("cp").args(["-al"]).arg(made.join("docker")).arg(&tree))?;
        }
        let registry = parts.path("registry.erofs");
        let mkfs = command::find_program("mkfs.erofs").context("mkfs.erofs is not on the search path")?;
        command::capture(Command::new(mkfs).args(["--quiet", "-T0"]).arg(&registry).arg(&tree))?;
        fs::remove_dir_all(&tree)?;
        let contexts = parts.path(INPUT);
        fs::create_dir_all(&contexts)?;
        for project in chosen {
            command::run(Command::new("cp").arg("-a").arg(folder.join(&project.name)).arg(&contexts))?;
        }
        parts.add(contexts, INPUT);
        Ok(Self { registry })
    }

    /// Adds the registry's disk to a job.
    pub(crate) fn give(&self, job: &mut Job) {
        job.disks.push((self.registry.clone(), DISK.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(name: &str, seconds: u64) -> Project {
        Project { name: name.into(), images: Vec::new(), seconds }
    }

    #[test]
    fn each_day_has_a_pair_that_is_short_enough() {
        let all = [project("a", 100), project("b", 150), project("c", 400), project("d", 160)];
        let names = |day| {
            let pair = pair(&all, day).unwrap();
            pair.into_iter().map(|project| project.name).collect::<Vec<_>>().concat()
        };
        assert_eq!([0, 1, 2, 3].map(names), ["ab", "ad", "ab", "ad"]);
        assert_eq!(pair(&all[2..3], 7), None);
    }

    #[test]
    fn every_image_of_a_project_is_known_and_every_project_has_a_folder() {
        let folder = toolchain::repository().unwrap().join(FOLDER);
        let images: Vec<String> = Image::all(&folder).unwrap().iter().map(Image::reference).collect();
        let projects = Project::all().unwrap();
        for project in &projects {
            assert!(folder.join(&project.name).join("Dockerfile").is_file(), "{}", project.name);
            for image in &project.images {
                assert!(images.contains(image), "{image} of {}", project.name);
            }
        }
        assert_eq!(Project::chosen(true, &[]).unwrap(), projects);
        assert_eq!(Project::chosen(false, &[]).unwrap().len(), 2);
        assert!(Project::chosen(false, &["nosuch"]).unwrap_err().to_string().contains(&projects[0].name));
    }
}
