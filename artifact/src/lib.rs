//! Packs a folder into a zip with the same files: for uploads by clients, and for builds by hand.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Writes all files below `folder` into a zip: sorted, with their permissions, links as links, no times. The same files
/// give the same bytes.
///
/// # Errors
/// A file cannot be read or written; sockets, devices and the like are refused.
pub fn pack(folder: &Path, out: File) -> io::Result<()> {
    let mut zip = ZipWriter::new(io::BufWriter::new(out));
    add(&mut zip, folder, Path::new(""))?;
    zip.finish()?.flush()
}

fn add(zip: &mut ZipWriter<io::BufWriter<File>>, root: &Path, below: &Path) -> io::Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(root.join(below))?
        .map(|entry| Ok(below.join(entry?.file_name())))
        .collect::<io::Result<_>>()?;
    entries.sort_unstable();
    for entry in entries {
        let path = root.join(&entry);
        let metadata = path.symlink_metadata()?;
        let refuse = |what: &str| io::Error::other(format!("{} {what}", path.display()));
        let name = entry.to_str().ok_or_else(|| refuse("has a name that is not UTF-8"))?;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .unix_permissions(metadata.mode() & 0o7777)
            .large_file(metadata.len() >= 1 << 32);
        let kind = metadata.file_type();
        if kind.is_dir() {
            zip.add_directory(name, options)?;
            add(zip, root, &entry)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&path)?;
            let target = target.to_str().ok_or_else(|| refuse("leads to a name that is not UTF-8"))?;
            zip.add_symlink(name, target, options)?;
        } else if kind.is_file() {
            zip.start_file(name, options)?;
            io::copy(&mut File::open(&path)?, zip)?;
        } else {
            return Err(refuse("is neither a file, a folder nor a link"));
        }
    }
    Ok(())
}
