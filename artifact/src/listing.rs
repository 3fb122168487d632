//! The files of a folder that go into its zip.
//!
//! What `.dockerignore` leaves out is not looked at: an ignored folder is walked only where an exception may match something in it, and
//! then it is part of the zip only if something in it is.

use std::fmt;
use std::fs::{self, FileType, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::ignore::{ALWAYS, Inherited, Rules, comparable};
use crate::{PackError, Progress};

/// Entries after which progress is told.
const STEP: usize = 1000;

/// A file, folder or link of the zip.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Path below the folder, as the zip names it.
    pub(crate) name: String,
    pub(crate) content: Content,
    pub(crate) mode: u32,
}

#[derive(Debug)]
pub(crate) enum Content {
    Folder,
    /// Target of the link, whatever is there.
    Link(String),
    /// Bytes that the file had when it was listed.
    File(u64),
}

/// Something that is neither file, folder nor link, which a zip cannot hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Special {
    /// Path below the folder.
    pub name: String,
    /// What it is.
    pub kind: SpecialKind,
}

/// Kinds of files that a zip cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialKind {
    /// A Unix socket.
    Socket,
    /// A named pipe.
    Pipe,
    /// A device.
    Device,
}

impl SpecialKind {
    fn of(kind: FileType) -> Self {
        if kind.is_socket() {
            Self::Socket
        } else if kind.is_fifo() {
            Self::Pipe
        } else {
            Self::Device
        }
    }
}

impl fmt::Display for SpecialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "a socket",
            Self::Pipe => "a named pipe",
            Self::Device => "a device",
        })
    }
}

/// What is in a folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Sorted; folders come before what is in them.
    pub(crate) entries: Vec<Entry>,
    pub(crate) left_out: Vec<Special>,
}

impl Listing {
    /// Lists a folder.
    ///
    /// # Errors
    /// Something that is not ignored cannot be read, or cannot be named in a zip; or the ignore file is wrong.
    pub(crate) fn of(folder: &Path, on_progress: &mut dyn FnMut(Progress)) -> Result<Self, PackError> {
        let rules = Rules::of_folder(folder)?;
        let mut walker = Walker { folder, rules, on_progress, found: Self::default() };
        walker.walk(Path::new(""), &Inherited::default())?;
        Ok(walker.found)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        let sizes = self.entries.iter().map(|entry| match entry.content {
            Content::File(bytes) => bytes,
            Content::Folder | Content::Link(_) => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }
}

struct Walker<'a> {
    folder: &'a Path,
    rules: Rules,
    on_progress: &'a mut dyn FnMut(Progress),
    found: Listing,
}

impl Walker<'_> {
    fn walk(&mut self, below: &Path, above: &Inherited) -> Result<(), PackError> {
        let path = self.folder.join(below);
        let entries = fs::read_dir(&path).map_err(PackError::read(&path))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(PackError::read(&path))?.file_name());
        }
        names.sort_unstable();
        for name in names {
            self.add(&below.join(name), above)?;
        }
        Ok(())
    }

    /// Adds a path of the folder and, where it is a folder, its content.
    fn add(&mut self, below: &Path, above: &Inherited) -> Result<(), PackError> {
        let text = comparable(below.as_os_str().as_encoded_bytes()).into_owned();
        let is_always = ALWAYS.contains(&text.as_str());
        let (ignored, inherited) = self.rules.judge(&text, above);
        let ignored = ignored && !is_always;
        if ignored && !self.rules.may_except_below(&text) {
            return Ok(());
        }
        let path = self.folder.join(below);
        let metadata = path.symlink_metadata().map_err(PackError::read(&path))?;
        // What the build needs of the root is sent as a file also where it is a link.
        let metadata = match path.metadata() {
            Ok(target) if is_always && target.is_file() => target,
            _ => metadata,
        };
        if ignored && !metadata.is_dir() {
            return Ok(());
        }
        let before = self.found.entries.len();
        let Some(entry) = self.entry(below, &path, &metadata)? else { return Ok(()) };
        self.found.entries.push(entry);
        if self.found.entries.len().is_multiple_of(STEP) {
            (self.on_progress)(Progress::Listing { entries: self.found.entries.len() as u64 });
        }
        if metadata.is_dir() {
            self.walk(below, &inherited)?;
            if ignored && self.found.entries.len() == before + 1 {
                self.found.entries.pop();
            }
        }
        Ok(())
    }

    /// The entry for a path; none for what a zip cannot hold.
    fn entry(&mut self, below: &Path, path: &Path, metadata: &Metadata) -> Result<Option<Entry>, PackError> {
        let wrong = |what| PackError::Name { path: path.to_owned(), what };
        let name = below.to_str().ok_or_else(|| wrong("has a name that is not UTF-8"))?.to_owned();
        let kind = metadata.file_type();
        let content = if kind.is_dir() {
            Content::Folder
        } else if kind.is_file() {
            Content::File(metadata.len())
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(PackError::read(path))?;
            let target = target.into_os_string().into_string();
            Content::Link(target.map_err(|_| wrong("leads to a name that is not UTF-8"))?)
        } else {
            self.found.left_out.push(Special { name, kind: SpecialKind::of(kind) });
            return Ok(None);
        };
        Ok(Some(Entry { name, content, mode: metadata.mode() & 0o7777 }))
    }
}
