//! `.dockerignore`: which files of a folder are left out of its zip, by Docker's rules.
//!
//! The rules are those of moby's `patternmatcher` and `ignorefile` packages, which BuildKit uses, too: the last pattern that
//! matches a path, or a folder above it, decides. `Dockerfile.dockerignore` is read instead of `.dockerignore` where it is there. The
//! builder applies the same file again when it copies, so the files in [`ALWAYS`] are sent whatever the patterns say.
//!
//! * [`lines`] – the patterns of a file
//! * [`pattern`] – a pattern, made into what is compared with paths; [`glob`] – whether it is one
//! * [`syntax`] – Go's syntax of regular expressions, which patterns become, in the syntax of the `regex` crate

mod glob;
mod lines;
mod pattern;
mod syntax;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

pub(crate) use lines::comparable;
use pattern::Pattern;

/// Files at the root of the folder that are sent always: the build itself needs them.
pub const ALWAYS: [&str; 3] = ["Dockerfile", "Dockerfile.dockerignore", ".dockerignore"];

/// Ignore files, the first of which that is there counts.
const FILES: [&str; 2] = ["Dockerfile.dockerignore", ".dockerignore"];

/// Longest ignore file in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Longest line of an ignore file in bytes: that of Docker.
const MAX_LINE: usize = 64 << 10;

/// Why an ignore file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IgnoreError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The ignore file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A line is no pattern.
    #[error("{} line {line}: {why}", path.display())]
    Line {
        /// The ignore file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        why: WrongPattern,
    },
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongPattern {
    /// There is nothing behind the `!`.
    #[error("\"!\" alone is no exception: write what is not to be ignored behind it")]
    LoneException,
    /// The syntax is wrong.
    #[error("{0:?} is no valid pattern: a bracket or a backslash has no end, or a range no order")]
    Syntax(String),
    /// It is longer than Docker accepts.
    #[error("the line is longer than 65536 bytes")]
    TooLong,
}

/// The patterns of an ignore file, in order.
#[derive(Debug, Default)]
pub struct Rules {
    patterns: Vec<Pattern>,
}

/// Which patterns match a folder or one above it: what its content inherits.
#[derive(Clone, Debug, Default)]
pub struct Inherited(Vec<bool>);

impl Rules {
    /// Reads the ignore file of a folder. Without one, nothing is ignored.
    ///
    /// # Errors
    /// The file cannot be read, or a line is wrong.
    pub fn of_folder(folder: &Path) -> Result<Self, IgnoreError> {
        for name in FILES {
            let path = folder.join(name);
            match read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(IgnoreError::Read { path, source }),
                Ok(text) => {
                    return Self::parse(&text).map_err(|(line, why)| IgnoreError::Line { path, line, why });
                }
            }
        }
        Ok(Self::default())
    }

    /// Parses the content of an ignore file.
    ///
    /// # Errors
    /// The number of the line that is wrong, and why.
    pub fn parse(text: &[u8]) -> Result<Self, (usize, WrongPattern)> {
        let mut patterns = Vec::new();
        for (number, line) in lines::patterns(text) {
            let pattern = line.and_then(|line| Pattern::parse(&line)).map_err(|why| (number, why))?;
            patterns.extend(pattern);
        }
        Ok(Self { patterns })
    }

    /// Whether the path, with slashes and without one at its begin or end, is ignored; `above` is what its folder has passed on. Also
    /// what the path passes on to its own content.
    #[must_use]
    pub fn judge(&self, path: &str, above: &Inherited) -> (bool, Inherited) {
        let mut ignored = false;
        let mut matched = Vec::with_capacity(self.patterns.len());
        for (index, pattern) in self.patterns.iter().enumerate() {
            let inherited = above.0.get(index).copied().unwrap_or(false);
            // A pattern that would change nothing is not compared, and then not passed on either.
            let matches = inherited || pattern.exception == ignored && pattern.matches(path);
            if matches {
                ignored = !pattern.exception;
            }
            matched.push(matches);
        }
        (ignored, Inherited(matched))
    }

    /// Whether an exception may match something below an ignored folder. If not, the folder need not be walked.
    #[must_use]
    pub fn may_except_below(&self, folder: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception && pattern.may_match_below(folder))
    }
}

/// Reads a file, up to its bound. A pipe is not waited for.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_BYTES} bytes")));
    }
    Ok(text)
}
