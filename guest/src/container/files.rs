//! Files of the container that the platform writes: `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname`; and `/etc/machine-id` of those
//! that have one of their own.
//!
//! They are what the microVM is, whatever the machine was on which the image was made. They are written into the root itself, not mounted
//! over it, so that programs can replace them as on any machine. An image may keep its own; a symbolic link that leads nowhere counts as
//! missing (Debian's `resolv.conf` may lead to a service that does not run here).

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use crate::dns;

/// Writes the files; with `keep`, those that are missing or empty. A root that cannot be written stays as it is, and so does anything but a
/// file or a link in their place.
///
/// # Errors
/// The file system failed.
pub fn write(root: &Path, hostname: &str, keep: bool) -> io::Result<()> {
    let folder = root.join("etc");
    let resolver = format!("nameserver {}\n", dns::ADDRESS);
    let result = fs::create_dir_all(&folder)
        .and_then(|()| replace(&folder.join("resolv.conf"), &resolver, keep))
        .and_then(|()| write_names(&folder, hostname, keep));
    where_writable(result)
}

/// Writes the files that change with the host name, and the machine's id.
///
/// # Errors
/// The file system failed.
pub fn write_own(root: &Path, hostname: &str, machine_id: &str, keep: bool) -> io::Result<()> {
    let folder = root.join("etc");
    let written = write_names(&folder, hostname, keep)
        .and_then(|()| replace(&folder.join("machine-id"), &format!("{machine_id}\n"), false));
    where_writable(written)
}

fn where_writable(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        written => written,
    }
}

fn write_names(folder: &Path, hostname: &str, keep: bool) -> io::Result<()> {
    let hosts =
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n");
    let hosts = if hostname == "localhost" { hosts.replace("127.0.1.1\tlocalhost\n", "") } else { hosts };
    [("hosts", hosts), ("hostname", format!("{hostname}\n"))]
        .iter()
        .try_for_each(|(name, content)| replace(&folder.join(name), content, keep))
}

fn replace(path: &Path, content: &str, keep: bool) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if keep && metadata.len() > 0 => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // What a link leads to belongs to somebody else: the link itself is replaced.
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => return Ok(()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(content.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A root with a link that leads nowhere, a file with content and an empty one.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink("/run/nothing/here", root.path().join("etc/resolv.conf")).unwrap();
        fs::write(root.path().join("etc/hosts"), "127.0.0.1 mine\n").unwrap();
        fs::write(root.path().join("etc/hostname"), "").unwrap();
        root
    }

    fn read(root: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(root.path().join("etc").join(name)).unwrap()
    }

    #[test]
    fn the_microvms_files_replace_those_of_the_image() {
        let root = root();
        write(root.path(), "box", false).unwrap();
        assert_eq!(read(&root, "resolv.conf"), "nameserver 169.254.53.53\n");
        assert_eq!(
            read(&root, "hosts"),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tbox\n"
        );
        assert_eq!(read(&root, "hostname"), "box\n");
    }

    #[test]
    fn a_link_is_replaced_and_not_what_it_leads_to() {
        let root = root();
        let target = root.path().join("elsewhere");
        fs::write(&target, "nameserver 10.0.0.1\n").unwrap();
        fs::remove_file(root.path().join("etc/resolv.conf")).unwrap();
        symlink(&target, root.path().join("etc/resolv.conf")).unwrap();
        fs::remove_file(root.path().join("etc/hosts")).unwrap();
        fs::create_dir(root.path().join("etc/hosts")).unwrap();
        write(root.path(), "box", false).unwrap();
        assert_eq!(read(&root, "resolv.conf"), "nameserver 169.254.53.53\n");
        assert_eq!(fs::read_to_string(target).unwrap(), "nameserver 10.0.0.1\n");
        assert!(root.path().join("etc/hosts").is_dir());
    }

    #[test]
    fn an_image_that_keeps_its_files_gets_what_is_missing() {
        let root = root();
        write(root.path(), "box", true).unwrap();
        assert_eq!(read(&root, "resolv.conf"), "nameserver 169.254.53.53\n");
        assert_eq!(read(&root, "hosts"), "127.0.0.1 mine\n");
        assert_eq!(read(&root, "hostname"), "box\n");
        write_own(root.path(), "other", "0123456789abcdef0123456789abcdef", true).unwrap();
        assert_eq!(read(&root, "hostname"), "box\n");
        assert_eq!(read(&root, "machine-id"), "0123456789abcdef0123456789abcdef\n");
    }

    #[test]
    fn a_machine_of_its_own_has_its_name_and_its_id() {
        let root = root();
        write(root.path(), "box", false).unwrap();
        let elsewhere = root.path().join("elsewhere");
        symlink(&elsewhere, root.path().join("etc/machine-id")).unwrap();
        write_own(root.path(), "other", "0123456789abcdef0123456789abcdef", false).unwrap();
        assert!(read(&root, "hosts").ends_with("127.0.1.1\tother\n"));
        assert_eq!(read(&root, "hostname"), "other\n");
        assert_eq!(read(&root, "machine-id"), "0123456789abcdef0123456789abcdef\n");
        assert!(!elsewhere.exists(), "what a link leads to is somebody else's");
    }
}
