//! Writes initramfs archives: cpio in the `newc` format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
//! All entries belong to root and have time 0, so the same content gives the same bytes.

use std::collections::BTreeSet;

const FOLDER: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive that is being written. Parent folders are added as needed.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds a folder and its parents.
    pub fn folder(&mut self, path: &str) {
        if self.folders.insert(path.to_owned()) {
            self.parents(path);
            self.entry(path, FOLDER, (0, 0), &[]);
        }
    }

    /// Adds a file of less than 4 GiB with these permission bits.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | mode, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, SYMLINK, (0, 0), target.as_bytes());
    }

    /// Adds `/dev/console`, without which the kernel starts PID 1 with no stdin, stdout and stderr.
    pub fn console(&mut self) {
        self.parents("dev/console");
        self.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (content.len(), name.len() + 1);
        let (inode, links, time) = (self.entries, 1, 0);
        // magic, inode, mode, uid, gid, links, time, size, device, rdev, length of the name, check
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{time:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            0, 0, 0, 0, device.0, device.1, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
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
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        let header = "070701000000010000 81ed0000000000000000000000010000000000000005000000000000000000000000000000000000000500000000";
        assert_eq!(&bytes[..110], header.replace(' ', "").as_bytes());
        assert_eq!(&bytes[110..124], b"init\0\0hello\0\0\0");
        assert!(bytes[124..].starts_with(b"070701") && bytes.len().is_multiple_of(4));
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o644, b"");
        archive.symlink("a/b/d", "c");
        archive.console();
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        let entries = text.split("070701").skip(1).map(|entry| entry[104..].split('\0').next().unwrap());
        assert_eq!(
            entries.collect::<Vec<_>>(),
            ["a", "a/b", "a/b/c", "a/b/d", "dev", "dev/console", "TRAILER!!!"]
        );
    }
}
