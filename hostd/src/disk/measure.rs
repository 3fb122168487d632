//! What accounts have on the disk, in the blocks that files take.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hearth_image_builder::build::caches_in;
use hearth_model::account::is_account;

use super::BLOCK;

/// Bytes that images, microVMs and layer caches take, by account: `data` is the folder of images and microVMs, `work` that of
/// builds and caches. `owners` are ids of microVMs and their accounts, `counted` files that are counted already. What
/// cannot be read – it may just be removed – counts for nothing.
pub(super) fn by_account(
    data: &Path,
    work: &Path,
    owners: &[(String, String)],
    counted: &HashSet<PathBuf>,
) -> HashMap<String, u64> {
    let mut taken: HashMap<String, u64> = HashMap::new();
    let mut add = |account: &str, path: PathBuf| {
        let sum = taken.entry(account.to_owned()).or_default();
        *sum = sum.saturating_add(bytes(path, counted));
    };
    let images = data.join("images");
    for entry in fs::read_dir(&images).into_iter().flatten().flatten() {
        if let Some(account) = entry.file_name().to_str().filter(|name| is_account(name)) {
            add(account, entry.path());
        }
    }
    for (id, account) in owners {
        add(account, data.join("microvms").join(id));
    }
    for (account, cache) in caches_in(work) {
        add(&account, cache);
    }
    taken
}

/// Bytes that a file, or the files below a folder take; a file with several names counts once.
pub(super) fn bytes(path: PathBuf, counted: &HashSet<PathBuf>) -> u64 {
    let (mut sum, mut seen, mut paths) = (0_u64, HashSet::new(), vec![path]);
    while let Some(path) = paths.pop() {
        // Of a symbolic link, the link.
        let Ok(data) = path.symlink_metadata() else { continue };
        if data.is_dir() {
            paths.extend(fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if !counted.contains(&path) && (data.nlink() < 2 || seen.insert((data.dev(), data.ino()))) {
            sum = sum.saturating_add(data.blocks().saturating_mul(BLOCK));
        }
    }
    sum
}
