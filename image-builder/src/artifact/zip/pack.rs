//! A folder becomes a zip: for those who build by hand.

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
/// What cannot be read or written; sockets, devices and the like are refused.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::{Limits, check};
    use super::*;

    #[test]
    fn a_folder_becomes_an_artifact_that_is_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("context");
        fs::create_dir_all(context.join("bin")).unwrap();
        fs::write(context.join("Dockerfile"), "FROM scratch\n").unwrap();
        fs::write(context.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(context.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("bin/run", context.join("start")).unwrap();
        let zips = ["one.zip", "two.zip"].map(|name| folder.path().join(name));
        for zip in &zips {
            pack(&context, File::create_new(zip).unwrap()).unwrap();
        }
        let [one, two] = zips.map(|zip| (check(&zip, &Limits::default()).unwrap(), fs::read(&zip).unwrap()));
        assert_eq!(one, two);
        assert_eq!((one.0.files, one.0.directories), (2, 1));
    }
}
