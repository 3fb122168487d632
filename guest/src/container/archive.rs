//! Tar archives into the container and out of it.
//!
//! Unpacked files get the owners, permissions, times and extended attributes of the archive. Entries that would lie outside of the
//! folder are refused, also through symbolic links, and so are devices and pipes. Packed files keep owners, permissions and times;
//! hard links become separate files, sockets are left out.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use tar::{Builder, Entry, EntryType};

use super::job::Archive;
use crate::refusal::{Context as _, Refusal};

/// Bytes that are read and written at once.
const BUFFER: usize = 256 << 10;

/// Unpacks the archive on stdin.
///
/// # Errors
/// The archive is damaged or has an entry that is refused, or the file system fails.
pub fn unpack(job: &Archive) -> Result<(), Refusal> {
    // SAFETY: takes no pointer. The archive's permissions have to be applied unmasked.
    unsafe { libc::umask(0) };
    unpack_from(&mut BufReader::with_capacity(BUFFER, io::stdin()), Path::new(&job.path))
}

/// Packs the file or folder to stdout.
///
/// # Errors
/// There is nothing at the path, or it cannot be read.
pub fn pack(job: &Archive) -> Result<(), Refusal> {
    let mut sink = BufWriter::with_capacity(BUFFER, io::stdout());
    pack_to(&mut sink, Path::new(&job.path))?;
    sink.flush().or_refuse(|| "sending the archive")
}

fn unpack_from(source: &mut impl Read, folder: &Path) -> Result<(), Refusal> {
    let failed = |error: io::Error| Refusal::system(format!("unpacking into {}", folder.display()), &error);
    fs::create_dir_all(folder).or_refuse(|| format!("making the folder {}", folder.display()))?;
    let folder = fs::canonicalize(folder).map_err(failed)?;
    let mut archive = tar::Archive::new(&mut *source);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    // A folder gets its permissions after its content is unpacked: they might forbid to create it.
    let mut folders = Vec::new();
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        if entry.header().entry_type() == EntryType::Directory {
            folders.push(entry);
        } else {
            unpack_entry(&mut entry, &folder)?;
        }
    }
    folders.sort_by(|one, other| other.path_bytes().cmp(&one.path_bytes()));
    for mut entry in folders {
        unpack_entry(&mut entry, &folder)?;
    }
    // The bytes after the archive's end (padding to a record) have to be read, otherwise its sender blocks.
    io::copy(source, &mut io::sink()).map(drop).map_err(failed)
}

fn unpack_entry(entry: &mut Entry<'_, impl Read>, folder: &Path) -> Result<(), Refusal> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::Block | EntryType::Char | EntryType::Fifo) {
        return Err(Refusal::invalid(format!("{name:?} is a device or a pipe, which are not unpacked")));
    }
    if kind == EntryType::Link {
        // A hard link has to replace an existing file, like any other entry.
        let target = inside(&name).map(|name| folder.join(name));
        if let Some(target) =
            target.filter(|target| fs::symlink_metadata(target).is_ok_and(|there| !there.is_dir()))
        {
            let parent = target.parent().and_then(|parent| fs::canonicalize(parent).ok());
            if parent.is_some_and(|parent| parent.starts_with(folder)) {
                fs::remove_file(&target).or_refuse(|| format!("replacing {name:?}"))?;
            }
        }
    }
    match entry.unpack_in(folder) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::invalid(format!("{name:?} would lie outside of {}", folder.display()))),
        Err(error) => Err(Refusal::system(format!("unpacking {name:?}"), &error)),
    }
}

/// The path made relative; none if it has steps upwards.
fn inside(name: &str) -> Option<PathBuf> {
    use std::path::Component;
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn pack_to(sink: impl io::Write, path: &Path) -> Result<(), Refusal> {
    let failed = |error: io::Error| Refusal::system(format!("packing {}", path.display()), &error);
    let status = fs::symlink_metadata(path)
        .map_err(|error| Refusal::not_found(format!("{} cannot be packed: {error}", path.display())))?;
    let mut archive = Builder::new(sink);
    archive.follow_symlinks(false);
    if status.is_dir() {
        append_folder(&mut archive, path, Path::new(".")).map_err(failed)?;
    } else {
        let name = path.file_name().map_or_else(|| path.into(), PathBuf::from);
        archive.append_path_with_name(path, name).map_err(failed)?;
    }
    archive.into_inner().and_then(|mut sink| sink.flush()).map_err(failed)
}

/// Packs a folder and what is in it, by name, so that the same files give the same archive.
fn append_folder(archive: &mut Builder<impl io::Write>, folder: &Path, name: &Path) -> io::Result<()> {
    let mut open = vec![(folder.to_owned(), name.to_owned())];
    while let Some((path, name)) = open.pop() {
        archive.append_path_with_name(&path, &name)?;
        if !fs::symlink_metadata(&path)?.is_dir() {
            continue;
        }
        let mut entries = fs::read_dir(&path)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
        for entry in entries {
            if !entry.file_type()?.is_socket() {
                open.push((entry.path(), name.join(entry.file_name())));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use hearth_proto::guest::v1::FailureCode;
    use tar::Header;

    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o640);
            header.set_uid(0);
            header.set_gid(0);
            // `set_path` would not write such names.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let data = if kind.is_file() { content.as_bytes() } else { b"" };
            header.set_size(data.len() as u64);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name_literal(content).unwrap();
            }
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn what_is_packed_is_unpacked_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("closed")).unwrap();
        fs::write(from.join("closed/file"), vec![5; 100_000]).unwrap();
        fs::set_permissions(from.join("closed/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("/nowhere/at/all", from.join("link")).unwrap();
        fs::set_permissions(from.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
        let long = "n".repeat(150);
        fs::write(from.join(&long), "long").unwrap();
        let mut packed = Vec::new();
        pack_to(&mut packed, &from).unwrap();
        let to = folder.path().join("deep/to");
        unpack_from(&mut packed.as_slice(), &to).unwrap();
        for name in ["closed", "closed/file", "link", &long] {
            let [was, is] = [&from, &to].map(|root| fs::symlink_metadata(root.join(name)).unwrap());
            assert_eq!((was.mode(), was.uid(), was.gid()), (is.mode(), is.uid(), is.gid()), "{name}");
            assert!(was.is_dir() || was.mtime() == is.mtime(), "{name}");
        }
        assert_eq!(fs::read(to.join("closed/file")).unwrap(), vec![5; 100_000]);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere/at/all"));
        let mut again = Vec::new();
        pack_to(&mut again, &from).unwrap();
        assert_eq!(packed, again);
    }

    #[test]
    fn a_single_file_is_packed_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("one"), "1").unwrap();
        let mut packed = Vec::new();
        pack_to(&mut packed, &folder.path().join("one")).unwrap();
        let to = folder.path().join("to");
        unpack_from(&mut packed.as_slice(), &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("one")).unwrap(), "1");
        let refusal = pack_to(Vec::new(), &folder.path().join("none")).unwrap_err();
        assert_eq!(refusal.code, FailureCode::NotFound);
    }

    #[test]
    fn files_and_links_replace_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        for round in ["1", "2"] {
            let bytes = archive(&[
                ("file", EntryType::Regular, round),
                ("hard", EntryType::Link, "file"),
                ("soft", EntryType::Symlink, "file"),
            ]);
            unpack_from(&mut bytes.as_slice(), folder.path()).unwrap();
            for name in ["file", "hard", "soft"] {
                assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), round, "{name}");
            }
        }
    }

    #[test]
    fn nothing_lands_outside_of_the_folder() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("in");
        fs::write(outer.path().join("secret"), "s").unwrap();
        let cases: [&[(&str, EntryType, &str)]; 4] = [
            &[("../out", EntryType::Regular, "x")],
            &[("link", EntryType::Symlink, ".."), ("link/out", EntryType::Regular, "x")],
            &[("hard", EntryType::Link, "../secret")],
            &[("link", EntryType::Symlink, ".."), ("link/secret", EntryType::Link, "link/secret")],
        ];
        for entries in cases {
            let bytes = archive(entries);
            assert!(unpack_from(&mut bytes.as_slice(), &folder).is_err(), "{entries:?}");
            assert!(!outer.path().join("out").exists(), "{entries:?}");
            assert_eq!(fs::read_to_string(outer.path().join("secret")).unwrap(), "s", "{entries:?}");
        }
    }

    /// Contexts of builds have links that lead anywhere.
    #[test]
    fn nothing_is_written_through_a_link() {
        use EntryType::{Directory, Link, Regular, Symlink};
        let outer = tempfile::tempdir().unwrap();
        let out = outer.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("file"), "mine").unwrap();
        fs::set_permissions(&out, fs::Permissions::from_mode(0o711)).unwrap();
        let to = |name: &str| out.join(name).to_str().unwrap().to_owned();
        let (folder, file, absent) = (to(""), to("file"), to("absent"));
        let cases: [&[(&str, EntryType, &str)]; 8] = [
            &[("l", Symlink, &folder), ("l/x", Regular, "x")],
            &[("l", Symlink, &folder), ("l/file", Regular, "x")],
            &[("l", Symlink, &folder), ("l/deep/x", Regular, "x")],
            &[("l", Symlink, &folder), ("l", Directory, "")],
            &[("l", Symlink, &absent), ("l/x", Regular, "x")],
            &[("l", Symlink, &absent), ("l/deep/x", Directory, "")],
            &[("a/l", Symlink, "../../out"), ("a/l/x", Symlink, "y")],
            &[("l", Symlink, &folder), ("hard", Link, "l/file"), ("hard", Regular, "x")],
        ];
        for (number, entries) in cases.into_iter().enumerate() {
            let bytes = archive(entries);
            let into = outer.path().join(format!("in{number}"));
            assert!(unpack_from(&mut bytes.as_slice(), &into).is_err(), "{entries:?}");
        }
        // What takes the place of a link replaces it, and not what it leads to.
        let bytes = archive(&[("l", Symlink, &file), ("l", Regular, "x"), ("dead", Symlink, &absent)]);
        let into = outer.path().join("in");
        unpack_from(&mut bytes.as_slice(), &into).unwrap();
        assert_eq!(fs::read_to_string(into.join("l")).unwrap(), "x");
        assert_eq!(fs::read_link(into.join("dead")).unwrap().to_str(), Some(absent.as_str()));
        let left: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["file"]);
        assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "mine");
        assert_eq!(fs::metadata(&out).unwrap().mode() & 0o7777, 0o711);
    }

    #[test]
    fn devices_and_damaged_archives_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
            let bytes = archive(&[("node", kind, "")]);
            let refusal = unpack_from(&mut bytes.as_slice(), folder.path()).unwrap_err();
            assert_eq!(refusal.code, FailureCode::Invalid, "{kind:?}");
        }
        let bytes = archive(&[("file", EntryType::Regular, "content")]);
        assert!(unpack_from(&mut &bytes[..600], folder.path()).is_err(), "cut within a file's content");
    }
}
