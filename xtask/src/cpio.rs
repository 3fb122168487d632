//! Writes initramfs archives: cpio in the `newc` format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! All entries belong to root and have time 0, so the same content gives the same bytes.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

const FOLDER: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive that is being written. Parent folders are added as needed.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// Adds a folder and its parents.
    pub(crate) fn folder(&mut self, path: &str) -> Result<()> {
        if path.is_empty() || !self.folders.insert(path.to_string()) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, FOLDER, (0, 0), &[])
    }

    /// Adds a file with these permission bits.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(path, REGULAR | mode, (0, 0), content)
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK, (0, 0), target.as_bytes())
    }

    /// Adds `/dev/console`, without which the kernel starts PID 1 with no stdin, stdout and stderr.
    pub(crate) fn console(&mut self) -> Result<()> {
        self.parents("dev/console")?;
        self.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[])
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.folder(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        let size =
            u32::try_from(content.len()).with_context(|| format!("{name} is too large for an initramfs"))?;
        let name_size = u32::try_from(name.len() + 1).context("an initramfs path is too long")?;
        self.inode += 1;
        let links = 1;
        // magic, then: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        self.bytes.extend_from_slice(b"070701");
        for field in [self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_bytes_of_the_format() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let header = "070701000000010000 81ed0000000000000000000000010000000000000005000000000000000000000000000000000000000500000000";
        let header = header.replace(' ', "");
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..124], b"init\0\0hello\0\0\0");
        assert!(bytes[124..].starts_with(b"070701"));
        assert!(bytes.len().is_multiple_of(4));
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o644, b"").unwrap();
        archive.symlink("a/b/d", "c").unwrap();
        archive.console().unwrap();
        let text = String::from_utf8_lossy(&archive.finish().unwrap()).into_owned();
        let names: Vec<&str> =
            text.split("070701").skip(1).map(|entry| entry[104..].trim_matches('\0')).collect();
        let names: Vec<&str> = names.iter().map(|name| name.split('\0').next().unwrap()).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", "dev", "dev/console", "TRAILER!!!"]);
    }
}
