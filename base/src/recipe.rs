//! The recipe of Debian roots: suite, packages and container bases.
//!
//! The recipe is a small JSON file beside this module; another one can be given. [`Sources`] are the mirrors of the packages.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BaseError;

/// The project's own recipe.
const OWN: &str = include_str!("recipe.json");

/// Suite, packages and container bases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Debian's suite: that of the container bases, of the kernel, and of the builder if it has none of its own.
    pub suite: String,
    /// Time of all files that do not come from a package, in seconds since 1970: the suite's release.
    pub generated_files_date: u64,
    /// The suite of all packages of the builder's root disk. One suite for all of them: no other set of packages is tested together,
    /// and the newer ones need the newer C library.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder_suite: Option<String>,
    /// Packages of the builder's root disk.
    pub builder: Vec<String>,
    /// The container bases.
    pub containers: Vec<ContainerRecipe>,
}

/// A container base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRecipe {
    /// Name without a registry, as in `hearth/debian`.
    pub name: String,
    /// Tag, as in `13`.
    pub tag: String,
    /// Packages in addition to Debian's smallest set.
    pub packages: Vec<String>,
    /// Command that runs if a Dockerfile has none.
    pub command: Vec<String>,
}

impl Recipe {
    /// The project's own recipe.
    ///
    /// # Errors
    ///
    /// The recipe is invalid, which tests exclude.
    pub fn own() -> Result<Self, BaseError> {
        Self::parse(OWN)
    }

    /// The recipe in a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is no valid recipe.
    pub fn read(path: &Path) -> Result<Self, BaseError> {
        Self::parse(&std::fs::read_to_string(path).map_err(BaseError::file("cannot read", path))?)
    }

    /// Leaves out what affects only the builder's root disk.
    pub(crate) fn clear_builder(&mut self) {
        self.builder_suite = None;
        self.builder.clear();
    }

    /// The recipe that the builder's root disk follows: this one, in the builder's suite.
    pub(crate) fn of_builder(&self) -> Self {
        let suite = self.builder_suite.clone().unwrap_or_else(|| self.suite.clone());
        Self { suite, builder_suite: None, ..self.clone() }
    }

    fn parse(text: &str) -> Result<Self, BaseError> {
        let recipe: Self =
            serde_json::from_str(text).map_err(|error| BaseError::Recipe(error.to_string()))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Checks that all words are harmless, because they are used in command lines and paths.
    fn check(&self) -> Result<(), BaseError> {
        let packages = self.builder.iter().chain(self.containers.iter().flat_map(|base| &base.packages));
        for word in packages.chain([&self.suite]).chain(&self.builder_suite) {
            plain(word, "-+.:")?;
        }
        for base in &self.containers {
            plain(&base.tag, "-._")?;
            base.name.split('/').try_for_each(|part| plain(part, "-._"))?;
        }
        let mut names: Vec<_> = self.containers.iter().map(ContainerRecipe::reference).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(BaseError::Recipe(format!("{} stands in it twice", twice.concat())));
        }
        Ok(())
    }
}

impl ContainerRecipe {
    /// Its name in a Dockerfile, as in `hearth/debian:13`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }
}

fn plain(word: &str, allowed: &str) -> Result<(), BaseError> {
    let starts = word.starts_with(|first: char| first.is_ascii_alphanumeric());
    if starts && word.chars().all(|c| c.is_ascii_alphanumeric() || allowed.contains(c)) {
        return Ok(());
    }
    Err(BaseError::Recipe(format!("`{word}` is not a plain name")))
}

/// The mirrors of the packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The mirror, or a snapshot of it, of the suite and its updates.
    pub mirror: String,
    /// The mirror of the suite's security updates, if they are wanted.
    pub security_mirror: Option<String>,
    /// Path of the file with the keys that sign the suites.
    pub keyring: String,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            mirror: "http://deb.debian.org/debian".into(),
            security_mirror: Some("http://deb.debian.org/debian-security".into()),
            keyring: "/usr/share/keyrings/debian-archive-keyring.gpg".into(),
        }
    }
}

/// Debian's suites that are not released: they have no updates and security updates beside them, and their signed lists expire after
/// a week.
const UNRELEASED: [&str; 5] = ["forky", "duke", "testing", "sid", "unstable"];

impl Sources {
    /// The lines of a sources file.
    pub(crate) fn lines(&self, suite: &str) -> Vec<String> {
        if UNRELEASED.contains(&suite) {
            // A snapshot of such a suite is older than a week. Its lists are signed all the same.
            let options = format!("signed-by={} check-valid-until=no", self.keyring);
            return vec![format!("deb [{options}] {} {suite} main", self.mirror)];
        }
        let line =
            |mirror: &str, suite: &str| format!("deb [signed-by={}] {mirror} {suite} main", self.keyring);
        let mut lines = vec![line(&self.mirror, suite), line(&self.mirror, &format!("{suite}-updates"))];
        lines.extend(self.security_mirror.iter().map(|mirror| line(mirror, &format!("{suite}-security"))));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_own_recipe_is_valid_and_has_the_promised_bases() {
        let names: Vec<_> =
            Recipe::own().unwrap().containers.iter().map(ContainerRecipe::reference).collect();
        assert_eq!(names, ["hearth/debian:13", "hearth/python:3.13"]);
    }

    #[test]
    fn words_that_would_be_options_or_paths_are_refused() {
        for (from, to) in [
            ("\"bash\"", "\"--hook\""),
            ("\"bash\"", "\"a b\""),
            ("hearth/debian", "hearth/../x"),
            ("hearth/debian", "/x"),
            ("\"13\"", "\"a/b\""),
        ] {
            assert!(OWN.contains(from));
            assert!(Recipe::parse(&OWN.replacen(from, to, 1)).is_err(), "{from} {to}");
        }
        let twice = OWN.replace("hearth/python", "hearth/debian").replace("3.13", "13");
        assert!(Recipe::parse(&twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn security_updates_come_from_their_own_mirror() {
        let lines = Sources::default().lines("trixie");
        assert!(lines.iter().any(|line| line.contains("debian-security trixie-security main")));
        let without = Sources { security_mirror: None, ..Sources::default() };
        assert_eq!(without.lines("trixie").len(), 2);
    }

    #[test]
    fn the_builder_has_a_suite_of_its_own_and_recipes_without_it_stay_valid() {
        let own = Recipe::own().unwrap();
        let builder = own.of_builder();
        assert_eq!((own.suite.as_str(), builder.suite.as_str()), ("trixie", "forky"));
        // An unreleased suite has nothing beside it.
        assert_eq!(Sources::default().lines(&builder.suite).len(), 1);
        let without = OWN.replace("  \"builder_suite\": \"forky\",\n", "");
        assert_eq!(Recipe::parse(&without).unwrap().of_builder().suite, "trixie");
        assert!(Recipe::parse(&OWN.replace("forky", "../forky")).is_err());
    }
}
