//! What accounts have on the disk, in the blocks that files take.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hearth_model::account::is_account;

/// Unit of [`MetadataExt::blocks`], in bytes.
const BLOCK: u64 = 512;

/// Bytes that images and microVMs take, by account. `owners` are ids of microVMs and their accounts. What cannot be read – it
/// may just be removed – counts for nothing.
pub(super) fn by_account(data: &Path, owners: &[(String, String)]) -> HashMap<String, u64> {
    let mut taken: HashMap<String, u64> = HashMap::new();
    let mut add = |account: &str, folder: PathBuf| {
        let sum = taken.entry(account.to_owned()).or_default();
        *sum = sum.saturating_add(bytes(folder));
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
    taken
}

/// Bytes that the files below a folder take; a file with several names counts once.
fn bytes(folder: PathBuf) -> u64 {
    let (mut sum, mut seen, mut folders) = (0_u64, HashSet::new(), vec![folder]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // Of a symbolic link, the link.
            let Ok(data) = entry.metadata() else { continue };
            if data.is_dir() {
                folders.push(entry.path());
            } else if data.nlink() < 2 || seen.insert((data.dev(), data.ino())) {
                sum = sum.saturating_add(data.blocks().saturating_mul(BLOCK));
            }
        }
    }
    sum
}
