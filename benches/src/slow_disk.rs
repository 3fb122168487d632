//! A file system on a disk with a realistic latency: the kernel's `null_blk`, backed by memory, which completes each request
//! [`LATENCY`] after it was made. The cost of a cold page cache can be measured on it even where an
//! instruction counts as a nanosecond, because the delay is a timer of the kernel.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// Time from a request to its completion: that of a local NVMe disk.
pub(crate) const LATENCY: Duration = Duration::from_micros(100);
/// Size of the disk in MiB; memory is allocated only for blocks that are written.
const SIZE_MIB: u64 = 2048;
/// Mount point of configfs.
const CONFIGFS: &str = "/sys/kernel/config";
/// Offset in bytes of the superblock's `s_feature_incompat`, whose lowest byte has the flag
/// [`EXTENTS`] (kernel, Documentation/filesystems/ext4/super.rst).
const FEATURE_INCOMPAT: u64 = 1024 + 0x60;
/// Flag: files have extents.
const EXTENTS: u8 = 0x40;

/// The disk; unmounted and removed when dropped.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    item: PathBuf,
    statistics: PathBuf,
    mounted: Option<TempDir>,
}

impl SlowDisk {
    /// Makes the disk and mounts an empty ext4 on it. Needs root.
    pub(crate) fn make() -> Result<Self> {
        run("modprobe", &["null_blk", "nr_devices=0"])?;
        let items = Path::new(CONFIGFS).join("nullb");
        if !items.exists() {
            run("mount", &["-t", "configfs", "configfs", CONFIGFS])?;
        }
        let name = format!("bench-{}", std::process::id());
        let item = items.join(&name);
        fs::create_dir(&item).with_context(|| format!("making {}", item.display()))?;
        let mut disk =
            Self { item, statistics: Path::new("/sys/block").join(&name).join("stat"), mounted: None };
        disk.set("size", SIZE_MIB)?;
        disk.set("blocksize", 4096)?;
        disk.set("memory_backed", 1)?;
        disk.set("irqmode", 2)?; // a timer completes requests
        disk.set("completion_nsec", LATENCY.as_nanos())?;
        disk.set("power", 1)?;
        let device = Path::new("/dev").join(&name);
        if !device.exists() {
            bail!("the kernel has made no {}; is it older than 6.10?", device.display());
        }
        format(&device)?;
        let folder = tempfile::tempdir().context("making a mount point")?;
        run("mount", &["-t", "ext4", &device.to_string_lossy(), &folder.path().to_string_lossy()])?;
        disk.mounted = Some(folder);
        Ok(disk)
    }

    fn set(&self, attribute: &str, value: impl ToString) -> Result<()> {
        let path = self.item.join(attribute);
        fs::write(&path, value.to_string()).with_context(|| format!("writing {}", path.display()))
    }

    /// Folder on the disk in which files can be made.
    pub(crate) fn folder(&self) -> &Path {
        self.mounted.as_ref().map_or(Path::new("/nonexistent"), TempDir::path)
    }

    /// Drops the kernel's page cache.
    pub(crate) fn forget(&self) -> Result<()> {
        run("sync", &[])?;
        fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache")
    }

    /// Bytes read from the disk so far.
    pub(crate) fn bytes_read(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.statistics)
            .with_context(|| format!("reading {}", self.statistics.display()))?;
        // Reads, reads merged, sectors read (kernel, Documentation/block/stat.rst).
        let sectors: u64 =
            text.split_whitespace().nth(2).and_then(|word| word.parse().ok()).context("no sectors")?;
        Ok(sectors * 512)
    }
}

/// Makes an ext4 without a journal: the result of busybox's mke2fs, plus extents.
fn format(device: &Path) -> Result<()> {
    run("mke2fs", &["-F", "-b", "4096", "-m", "0", &device.to_string_lossy()])?;
    let file = File::options().read(true).write(true).open(device);
    let file = file.with_context(|| format!("opening {}", device.display()))?;
    let mut flags = [0];
    file.read_exact_at(&mut flags, FEATURE_INCOMPAT).context("reading the superblock")?;
    file.write_all_at(&flags.map(|flags| flags | EXTENTS), FEATURE_INCOMPAT)
        .and_then(|()| file.sync_all())
        .context("writing the superblock")
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    let status = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("running {program}"))?;
    if !status.success() {
        bail!("`{program} {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // If a step fails, the disk stays until the host restarts, which does no harm.
        if let Some(folder) = self.mounted.take() {
            let _ = run("umount", &[&folder.path().to_string_lossy()]);
        }
        let _ = self.set("power", 0);
        let _ = fs::remove_dir(&self.item);
    }
}
