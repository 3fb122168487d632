//! Settings and file systems of the host that tests change for a while.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::swap::run;

/// Size of the file system in bytes.
const SIZE: u64 = 512 << 20;

/// A folder in a file system on a block device of its own: what is in it can be out of the page cache. The device is a
/// loop device, since reads of it take a while: what a device returns at once, like one in memory, is never missing.
pub(crate) struct DiskFolder(TempDir);

impl DiskFolder {
    /// Makes the file system; returns `None` if the tests do not own the host.
    pub(crate) fn make() -> Option<Self> {
        if std::env::var_os("HEARTH_METAL").is_none() {
            eprintln!("left out: HEARTH_METAL is not set, so nothing is mounted on the host");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        super::create(&image).set_len(SIZE).unwrap();
        fs::create_dir(folder.path().join("files")).unwrap();
        let disk = Self(folder);
        let (image, mounted) = (image.display().to_string(), disk.files().display().to_string());
        run("modprobe", &["loop"]);
        run("mke2fs", &["-F", &image]);
        run("mount", &["-t", "ext4", "-o", "loop", &image, &mounted]);
        Some(disk)
    }

    fn files(&self) -> PathBuf {
        self.0.path().join("files")
    }

    /// Copies a file into the folder.
    pub(crate) fn take(&self, from: &Path) -> PathBuf {
        let to = self.files().join(from.file_name().unwrap());
        super::copy(File::open(from).unwrap(), &to).sync_all().unwrap();
        to
    }

    /// Opens a file of the folder, no page of which is in the page cache.
    pub(crate) fn open_cold(path: &Path) -> File {
        let file = File::open(path).unwrap();
        // SAFETY: takes no pointer.
        let dropped = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(dropped, 0);
        file
    }
}

impl Drop for DiskFolder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            run("umount", &[&self.files().display().to_string()]);
        }
    }
}

const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Huge pages wherever a process has room for them, while this value lives (Linux,
/// Documentation/admin-guide/mm/transhuge.rst).
pub(crate) struct HugePages {
    before: String,
}

impl HugePages {
    pub(crate) fn always() -> Self {
        let text = fs::read_to_string(HUGE_PAGES).unwrap();
        let before = text.split(['[', ']']).nth(1).unwrap().to_string();
        fs::write(HUGE_PAGES, "always").unwrap();
        Self { before }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        fs::write(HUGE_PAGES, &self.before).unwrap();
    }
}
