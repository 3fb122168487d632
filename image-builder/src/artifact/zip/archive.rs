//! The archive's directory, read within bounds, and the contents of entries.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::rc::Rc;

use ::zip::read::{ZipFile, ZipFileEntry};
use ::zip::{CompressionMethod, DateTime, System, ZipArchive, ZipReadOptions};
use rustix::fs::FileType;

use super::names::{EntryPath, shown};
use super::tree::{Kind, Node, Tree};
use super::{Limits, RATIO_COUNTS_FROM, ZipError};

/// 1980-01-01, the first time that a zip can express: for directories without an entry, and for invalid times.
const FIRST_TIME: u64 = 315_532_800;

/// Longest target of a symbolic link in bytes (`PATH_MAX`); a longer one is refused without being read.
const MAX_LINK_BYTES: u64 = 4095;

/// Mode of files from archives without Unix modes: the same as Docker's on Windows.
const MODE_WITHOUT_MODES: u32 = 0o755;

/// The bits of a mode that say who may do what; those above say what kind of file it is.
const PERMISSIONS: u32 = 0o7777;

/// An archive whose directory has been read and validated.
pub(super) struct Archive<'f> {
    zip: ZipArchive<Metered<'f>>,
    file_bytes: u64,
    tree: Tree,
    limits: Limits,
}

/// Content of a node.
pub(super) enum Body<'b, 'a, 'f> {
    /// Nothing: a directory.
    Directory,
    /// Target of the link, which has been checked.
    Link(&'b str),
    /// The file's content, which has to be read to its end.
    File(&'b mut Content<'a, 'f>),
}

impl<'f> Archive<'f> {
    /// Reads the directory: all names, kinds and sizes.
    pub(super) fn open(file: &'f File, limits: &Limits) -> Result<Self, ZipError> {
        let file_bytes = file.metadata().map_err(ZipError::Read)?.len();
        let too_large = || ZipError::DirectoryTooLarge { limit: limits.max_directory_bytes };
        // The directory is read into memory as a whole, whatever its end record contains, so the bytes to read are bounded.
        // The limit is doubled because the search for the end record, and inconsistent archives, make some parts be read twice.
        let left = Rc::new(Cell::new(limits.max_directory_bytes.saturating_mul(2).saturating_add(1 << 20)));
        let metered = Metered { inner: BufReader::new(file), left: Rc::clone(&left) };
        let zip = ZipArchive::new(metered).map_err(|error| damaged(error, too_large))?;
        if file_bytes.saturating_sub(zip.central_directory_start()) > limits.max_directory_bytes {
            return Err(too_large());
        }
        // From here on, contents are read, which have their own limit.
        left.set(u64::MAX);
        if zip.has_duplicate_names() {
            return Err(ZipError::Damaged("an entry is there twice".to_owned()));
        }
        if zip.len() as u64 > limits.max_entries {
            return Err(ZipError::TooManyEntries { limit: limits.max_entries });
        }
        let mut tree = Tree::default();
        let mut declared = Budget::new(limits, file_bytes);
        for index in 0..zip.len() {
            let entry = zip.by_index_data(index).map_err(|error| damaged(error, too_large))?;
            let name = entry.name().map_err(|error| damaged(error, too_large))?.into_owned();
            let unix = entry.system() == System::Unix;
            let (path, directory) = EntryPath::parse(&name, unix)?;
            let node = node(&entry, &path, directory, index)?;
            // The sizes in headers are checked before anything is unpacked; the real ones are checked while unpacking.
            declared.spend(entry.size())?;
            if !path.is_root() {
                tree.add(path, node)?;
            }
        }
        tree.complete(FIRST_TIME, limits.max_entries, limits.max_directory_bytes)?;
        Ok(Self { zip, file_bytes, tree, limits: limits.clone() })
    }

    /// The file tree.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Calls `visit` for all nodes, parents before children, and returns the total bytes of all contents. An error in a content takes
    /// precedence over the error that `visit` returns for it.
    pub(super) fn for_each(
        &mut self,
        mut visit: impl FnMut(&EntryPath, &Node, Body<'_, '_, '_>) -> Result<(), ZipError>,
    ) -> Result<u64, ZipError> {
        let mut budget = Budget::new(&self.limits, self.file_bytes);
        let mut spans = Vec::with_capacity(self.zip.len());
        for (path, node) in self.tree.iter() {
            let Some(index) = node.entry else {
                visit(path, node, Body::Directory)?;
                continue;
            };
            // Has the library compare the local header with the directory.
            let options = ZipReadOptions::new().enforce_header_consistency(true);
            let file =
                self.zip.by_index_with_options(index, options).map_err(|error| unreadable(path, error))?;
            let end = file.data_start().and_then(|start| start.checked_add(file.compressed_size()));
            spans.push((file.header_start(), end.unwrap_or(u64::MAX), path));
            let declared = file.size();
            let mut content = Content {
                inner: file,
                path,
                declared,
                read: 0,
                ended: false,
                budget: &mut budget,
                failure: None,
            };
            let visited = match node.kind {
                Kind::Directory => visit(path, node, Body::Directory),
                Kind::Link => match content.link_target() {
                    Ok(target) => visit(path, node, Body::Link(&target)),
                    Err(error) => Err(error),
                },
                Kind::File => visit(path, node, Body::File(&mut content)),
            };
            if let Some(failure) = content.failure.take() {
                return Err(failure);
            }
            visited?;
            if !content.ended && node.kind == Kind::File {
                return Err(content.damaged("its end was not reached"));
            }
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if let [(_, end, _), (start, _, path)] = pair
                && end > start
            {
                return Err(ZipError::Overlap { name: shown(path.as_str()) });
            }
        }
        Ok(budget.spent)
    }
}

/// The tree's node for an entry.
fn node(entry: &ZipFileEntry<'_>, path: &EntryPath, directory: bool, index: usize) -> Result<Node, ZipError> {
    let name = || shown(path.as_str());
    let refuse = |what| Err(ZipError::Kind { name: name(), what });
    if entry.encrypted() {
        return Err(ZipError::Method { name: name(), how: "encrypted".to_owned() });
    }
    if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        let how = format!("compressed with {}", entry.compression());
        return Err(ZipError::Method { name: name(), how });
    }
    // Unix modes are in the upper half, whatever system the archive names as its origin: tools that write them there without
    // naming Unix are common.
    let mode = entry.external_attributes() >> 16;
    let kind = match FileType::from_raw_mode(mode) {
        // No kind is given.
        FileType::Unknown if mode <= PERMISSIONS && directory => Kind::Directory,
        FileType::Unknown if mode <= PERMISSIONS => Kind::File,
        FileType::Directory if directory => Kind::Directory,
        FileType::RegularFile if !directory => Kind::File,
        FileType::Symlink if !directory => Kind::Link,
        FileType::Directory => return refuse("a directory whose name does not end with a slash"),
        FileType::RegularFile | FileType::Symlink => {
            return refuse("no directory, but its name ends with a slash");
        }
        FileType::BlockDevice | FileType::CharacterDevice => return refuse("a device"),
        FileType::Fifo => return refuse("a named pipe"),
        FileType::Socket => return refuse("a socket"),
        FileType::Unknown => return refuse("of a kind that is not known"),
    };
    if kind == Kind::Directory && entry.size() != 0 {
        return refuse("a directory with a content");
    }
    let mode = if mode == 0 { MODE_WITHOUT_MODES } else { mode & PERMISSIONS };
    let mtime = entry.last_modified().and_then(unix_seconds).unwrap_or(FIRST_TIME);
    Ok(Node { kind, mode, mtime, entry: Some(index) })
}

/// Seconds since the epoch at an archive's local time, which is taken as UTC so that the result does not depend on the host.
fn unix_seconds(time: DateTime) -> Option<u64> {
    if !time.is_valid() {
        return None;
    }
    // Days since the epoch in the proleptic Gregorian calendar, years beginning in March.
    let (month, day) = (u64::from(time.month()), u64::from(time.day()));
    let year = u64::from(time.year()) - u64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    let seconds = u64::from(time.hour()) * 3600 + u64::from(time.minute()) * 60 + u64::from(time.second());
    Some(days * 86_400 + seconds)
}

/// Counts unpacked bytes, and enforces their limits.
struct Budget {
    spent: u64,
    max_bytes: u64,
    max_ratio: u64,
    file_bytes: u64,
}

impl Budget {
    fn new(limits: &Limits, file_bytes: u64) -> Self {
        Self { spent: 0, max_bytes: limits.max_unpacked_bytes, max_ratio: limits.max_ratio, file_bytes }
    }

    fn spend(&mut self, bytes: u64) -> Result<(), ZipError> {
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > self.max_bytes {
            return Err(ZipError::TooLarge { limit: self.max_bytes });
        }
        if self.spent > RATIO_COUNTS_FROM && self.spent > self.file_bytes.saturating_mul(self.max_ratio) {
            return Err(ZipError::Bomb { limit: self.max_ratio });
        }
        Ok(())
    }
}

/// The content of an entry as it is unpacked. A failed read stores its reason in `failure`, because the readers in use pass on only
/// I/O errors.
pub(super) struct Content<'a, 'f> {
    inner: ZipFile<'a, Metered<'f>>,
    path: &'a EntryPath,
    declared: u64,
    read: u64,
    ended: bool,
    budget: &'a mut Budget,
    failure: Option<ZipError>,
}

impl Content<'_, '_> {
    /// Size in bytes, from the header. Reading fails if the content has another size.
    pub(super) fn size(&self) -> u64 {
        self.declared
    }

    fn damaged(&self, why: impl Into<String>) -> ZipError {
        ZipError::Content { name: shown(self.path.as_str()), why: why.into() }
    }

    fn fail(&mut self, failure: ZipError) -> io::Error {
        let error = io::Error::other(failure.to_string());
        self.failure = Some(failure);
        error
    }

    fn link_target(&mut self) -> Result<String, ZipError> {
        if self.declared > MAX_LINK_BYTES {
            return Err(self.damaged("the target of a link is longer than 4095 bytes"));
        }
        let mut target = Vec::new();
        if let Err(error) = self.read_to_end(&mut target) {
            return Err(self.failure.take().unwrap_or_else(|| self.damaged(error.to_string())));
        }
        let target =
            String::from_utf8(target).map_err(|_| self.damaged("the target of a link is not UTF-8"))?;
        self.path.check_link(&target)?;
        Ok(target)
    }
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.inner.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let failure = match error.raw_os_error() {
                    Some(_) => ZipError::Read(error),
                    None => self.damaged(error.to_string()),
                };
                return Err(self.fail(failure));
            }
        };
        self.read += count as u64;
        self.ended = count == 0 && !buffer.is_empty();
        if self.read > self.declared || (self.ended && self.read < self.declared) {
            let failure = self.damaged("it has another size than its header says");
            return Err(self.fail(failure));
        }
        if let Err(failure) = self.budget.spend(count as u64) {
            return Err(self.fail(failure));
        }
        Ok(count)
    }
}

fn unreadable(path: &EntryPath, error: ::zip::result::ZipError) -> ZipError {
    match error {
        ::zip::result::ZipError::Io(error) if error.raw_os_error().is_some() => ZipError::Read(error),
        error => ZipError::Content { name: shown(path.as_str()), why: error.to_string() },
    }
}

fn damaged(error: ::zip::result::ZipError, too_large: impl Fn() -> ZipError) -> ZipError {
    match error {
        ::zip::result::ZipError::Io(error) if error.raw_os_error().is_some() => ZipError::Read(error),
        ::zip::result::ZipError::Io(error) if error.kind() == io::ErrorKind::QuotaExceeded => too_large(),
        error => ZipError::Damaged(shown(&error.to_string())),
    }
}

/// Fails with `QuotaExceeded` when more bytes are read than the directory of a sound archive can need.
struct Metered<'f> {
    inner: BufReader<&'f File>,
    left: Rc<Cell<u64>>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        self.left.set(left.ok_or_else(|| {
            io::Error::new(io::ErrorKind::QuotaExceeded, "the archive's directory is too large")
        })?);
        Ok(count)
    }
}

impl Seek for Metered<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner.seek(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_for_utc() {
        for (date, expected) in [
            ((1980, 1, 1, 0, 0, 0), FIRST_TIME),
            ((2000, 2, 29, 12, 30, 58), 951_827_458),
            ((2024, 3, 1, 0, 0, 0), 1_709_251_200),
            ((2107, 12, 31, 23, 59, 58), 4_354_819_198),
        ] {
            let (year, month, day, hour, minute, second) = date;
            let time = DateTime::from_date_and_time(year, month, day, hour, minute, second).unwrap();
            assert_eq!(unix_seconds(time), Some(expected), "{date:?}");
        }
    }
}
