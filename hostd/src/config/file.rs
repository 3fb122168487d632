//! Reads the file. Errors name the key and the line.

use std::path::{Path, PathBuf};
use std::{fs, io};

use toml::de::{DeTable, DeValue};

use super::Config;

/// The default path of the configuration.
pub const DEFAULT_FILE: &str = "/etc/hearth/hearthd.toml";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; `hearthd init` writes a first configuration", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The text is not a valid configuration.
    #[error("{}, line {line}: {why}", path.display())]
    Wrong {
        /// Path of the file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, on one line.
        why: String,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// An error if the file cannot be read, or for the first key that is unknown or has an invalid value, with its
    /// line.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = fs::read_to_string(path);
        let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, why)| ConfigError::Wrong { path: path.to_owned(), line, why })
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// The line, and what is wrong in it.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(text, span.start));
            (line, error.message().replace('\n', " "))
        })
    }
}

/// The line in which a key (`listen.address`) is set, counted from 1; the nearest section's where it is not set.
#[must_use]
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut table = table.get_ref();
    let mut line = None;
    for part in key.split('.') {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else { break };
        line = Some(line_at(text, name.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    line
}

fn line_at(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_key_and_line() {
        for (text, line, key) in [
            ("region = \"x\"\nregoin = \"y\"\n", 2, "regoin"),
            ("\n[listen]\nadress = \"127.0.0.1:1\"\n", 3, "adress"),
            ("[listen]\n\naddress = \"here\"\n", 3, "socket address"),
            ("[network]\nmtu = 70000\n", 2, "u16"),
            ("[logs\n", 1, "table"),
            ("burst = \"4\"", 1, "u32"),
        ] {
            let (at, why) = Config::parse(text).unwrap_err();
            assert_eq!(at, line, "{text}: {why}");
            assert!(why.contains(key), "{why}");
        }
        let error = Config::read(Path::new("/nowhere/hearthd.toml")).unwrap_err().to_string();
        assert!(error.contains("hearthd init"), "{error}");
    }

    #[test]
    fn keys_are_found_in_the_text() {
        let text = "region = \"x\"\n[listen]\n# here\naddress = \"0.0.0.0:1\"\n[quotas.rates]\nRunMicrovm = { per_second = 1 }\n";
        assert_eq!(line_of(text, "listen.address"), Some(4));
        assert_eq!(line_of(text, "quotas.rates.RunMicrovm.per_second"), Some(6));
        assert_eq!(line_of(text, "listen.key"), Some(2));
        assert_eq!(line_of(text, "data"), None);
    }
}
