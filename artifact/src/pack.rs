//! The zip of a folder.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::listing::{Content, Listing, Special};
use crate::{Limits, PackError, Progress};

/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

/// Bytes of an entry in a zip's directory beside its name: 46, and 28 with sizes of 8 bytes.
const DIRECTORY_ENTRY: u64 = 46 + 28;

/// What was packed.
#[derive(Debug, Default)]
pub struct Packed {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of all files, unpacked.
    pub bytes: u64,
    /// What was left out although `.dockerignore` does not say so: Docker sends no sockets either.
    pub left_out: Vec<Special>,
}

/// Writes the files of `folder` into a zip: without those that `.dockerignore` leaves out, sorted, with their permissions, links as
/// links, no times. The same files give the same bytes.
///
/// # Errors
/// [`PackError`]
pub fn pack(folder: &Path, out: File) -> Result<Packed, PackError> {
    pack_within(folder, out, Limits::NONE, &mut |_| ())
}

/// Like [`pack`]; refuses what is beyond `limits` before it writes anything, and tells how far it is.
///
/// # Errors
/// [`PackError`]
pub fn pack_within(
    folder: &Path,
    out: File,
    limits: Limits,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Packed, PackError> {
    let listing = Listing::of(folder, on_progress)?;
    let (entries, total) = (listing.entries.len() as u64, listing.bytes());
    let names = listing.entries.iter().map(|entry| entry.name.len() as u64 + 1);
    let directory = names.fold(entries.saturating_mul(DIRECTORY_ENTRY), u64::saturating_add);
    for (what, found, limit) in [
        ("files, folders and links that .dockerignore does not leave out", entries, limits.entries),
        ("bytes in files that .dockerignore does not leave out", total, limits.unpacked_bytes),
        ("bytes of names that .dockerignore does not leave out", directory, limits.directory_bytes),
    ] {
        if found > limit {
            return Err(PackError::Limit { folder: folder.to_owned(), what, found, limit });
        }
    }
    let mut zip = ZipWriter::new(BufWriter::new(out));
    let write = |error: zip::result::ZipError| PackError::Write(error.into());
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    for entry in &listing.entries {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .unix_permissions(entry.mode);
        let name = entry.name.as_str();
        match &entry.content {
            Content::Folder => zip.add_directory(name, options).map_err(write)?,
            Content::Link(target) => zip.add_symlink(name, target, options).map_err(write)?,
            Content::File(size) => {
                zip.start_file(name, options.large_file(*size >= 1 << 32)).map_err(write)?;
                let path = folder.join(name);
                let mut file = File::open(&path).map_err(PackError::read(&path))?;
                loop {
                    let count = match file.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(count) => count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(PackError::read(path)(error)),
                    };
                    zip.write_all(buffer.get(..count).unwrap_or_default()).map_err(PackError::Write)?;
                    bytes += count as u64;
                    // A file that grows meanwhile makes no bar longer than it is.
                    on_progress(Progress::Packing { bytes: bytes.min(total), total });
                }
            }
        }
    }
    zip.finish().map_err(write)?.flush().map_err(PackError::Write)?;
    Ok(Packed { entries, bytes, left_out: listing.left_out })
}
