//! Files that a job gets as disks: of any size, without being copied.
//!
//! On the emulated metal a disk is a read-only virtio drive whose serial number is its name, and init links
//! `/dev/disk/NAME` to it; on this machine it is a link to the file, which `mount -o loop` takes as well.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Maximum length of a serial number of virtio-blk.
const MAX_NAME: usize = 20;

/// Checks a disk's name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(plain) {
        bail!("`{name}` is no name of a disk: give 1 to {MAX_NAME} lower-case letters, digits, '-' and '_'");
    }
    Ok(())
}

/// Makes the folder of links to the disks of a job on this machine.
pub(crate) fn link(folder: &Path, disks: &[(PathBuf, String)]) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (file, name) in disks {
        check_name(name)?;
        let file = fs::canonicalize(file).with_context(|| format!("no disk {}", file.display()))?;
        symlink(file, folder.join(name)).with_context(|| format!("two disks are named {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_serial_numbers_and_paths() {
        assert!(check_name("debian-tools_1").is_ok());
        for name in ["", "a/b", "A", "a b", "a,b", "twenty-one-characters"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn disks_of_this_machine_are_links() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "content").unwrap();
        let disks = [(file.clone(), "one".to_string()), (file, "two".to_string())];
        link(&folder.path().join("disks"), &disks).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("disks/two")).unwrap(), "content");
        assert!(link(&folder.path().join("disks"), &disks).is_err());
    }
}
