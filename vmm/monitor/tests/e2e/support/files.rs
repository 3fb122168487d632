//! Files for disks.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use hearth_test_guest::pattern;
use hearth_vmm_api::config::{DiskConfig, DiskSource};

/// Creates a file that contains the first `bytes` bytes of the stream `seed`, open for reading and writing.
pub(crate) fn patterned(path: &Path, seed: u64, bytes: u64) -> File {
    let mut file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
    let mut chunk = vec![0; 1 << 20];
    for start in (0..bytes).step_by(chunk.len()) {
        let length = chunk.len().min(usize::try_from(bytes - start).unwrap());
        pattern::fill(seed, start, &mut chunk[..length]);
        file.write_all(&chunk[..length]).unwrap();
    }
    file
}

/// Creates a file with an empty ext4 file system, open for reading and writing: a copy of `HEARTH_EXT4_IMAGE`.
pub(crate) fn ext4(path: &Path) -> File {
    copy(File::open(named("HEARTH_EXT4_IMAGE")).unwrap(), path)
}

/// Creates a file with everything that can be read from `from`, open for reading and writing. Zeros become holes,
/// because the tests' files lie in memory.
pub(crate) fn copy(mut from: impl Read, path: &Path) -> File {
    let file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
    let (mut block, mut at) = (vec![0; 64 << 10], 0);
    loop {
        let length = from.read(&mut block).unwrap();
        let read = &block[..length];
        if read.iter().any(|byte| *byte != 0) {
            file.write_all_at(read, at).unwrap();
        }
        at += length as u64;
        if length == 0 {
            file.set_len(at).unwrap();
            return file;
        }
    }
}

/// Checks that the ext4 file system in the file is clean, down to every inode; changes nothing.
pub(crate) fn assert_clean_ext4(path: &Path) {
    let (status, said) = e2fsck("-fn", path);
    assert_eq!(status, Some(0), "e2fsck: {said}");
}

/// Checks that an ext4 file system that was in use is clean once its journal has been replayed, which this does.
pub(crate) fn assert_clean_after_replay(path: &Path) {
    let (status, said) = e2fsck("-fy", path);
    // Status 1 means that something was changed. The changes are the journal, and the superblock's free counts, which
    // are never in the journal (Linux, fs/ext4/super.c, ext4_commit_super) and which every mount recomputes.
    assert!(matches!(status, Some(0 | 1)), "e2fsck: {status:?} {said}");
    let counted = |line: &str| {
        ["blocks", "inodes"].iter().any(|what| line.starts_with(&format!("Free {what} count wrong (")))
    };
    let repairs = said.lines().zip(said.lines().skip(1)).filter(|(_, answer)| answer.contains('?'));
    for (wrong, _) in repairs {
        assert!(counted(wrong), "e2fsck had to repair what the journal should have: {said}");
    }
    assert_clean_ext4(path);
}

/// Returns the exit status and the output of `e2fsck`.
fn e2fsck(option: &str, path: &Path) -> (Option<i32>, String) {
    let output = Process::new(named("HEARTH_E2FSCK")).arg(option).arg(path).output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    (output.status.code(), said.concat())
}

fn named(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set")).into()
}

/// Returns the configuration of a disk without rate limits.
pub(crate) fn disk(source: DiskSource, serial: &str) -> DiskConfig {
    DiskConfig { source, serial: serial.to_string(), rate_limiter: None, room: None }
}
