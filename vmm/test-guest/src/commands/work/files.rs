//! Files on an ext4 file system: written under a temporary name, synced, renamed, read back, removed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;

use hearth_test_guest::pattern::{self, Random};
use hearth_test_guest::work::Kind;

use super::{Going, rest};
use crate::commands::failed;
use crate::system;

/// The mount point of the file system.
const MOUNT: &str = "/mnt";
/// The folder for the files; its previous contents are removed.
const FOLDER: &str = "/mnt/work";
/// Number of files.
const FILES: u64 = 24;
/// Maximum size of a file in bytes.
const MAX_BYTES: u64 = 40_000;

/// The expected content of a file: the first `bytes` bytes of the stream `seed`.
#[derive(Debug, Clone, Copy)]
struct Content {
    seed: u64,
    bytes: usize,
}

/// Mounts the disk's file system.
pub(super) fn mount(device: &str) -> Result<(), String> {
    let mounted = system::mount_device(&format!("/dev/{device}"), "ext4", MOUNT);
    mounted.map_err(failed("mounting the file system"))
}

/// Unmounts the file system.
pub(super) fn unmount() -> Result<(), String> {
    system::unmount(MOUNT).map_err(failed("unmounting the file system"))
}

/// Starts the thread.
pub(super) fn start(going: &mut Going) -> Result<(), String> {
    let _ = fs::remove_dir_all(FOLDER); // the folder may not exist
    fs::create_dir(FOLDER).map_err(failed("making a folder"))?;
    let folder = File::open(FOLDER).map_err(failed("opening the folder"))?;
    let mut known: Vec<Option<Content>> = Vec::new();
    known.resize_with(usize::try_from(FILES).unwrap_or(0), || None);
    going.spawn(Kind::Files, move |board| {
        let mut random = Random::new(0);
        for number in 1.. {
            if board.is_stopping() {
                break;
            }
            let index = random.below(FILES);
            let path = format!("{FOLDER}/{index}");
            let Some(known) = usize::try_from(index).ok().and_then(|index| known.get_mut(index)) else {
                break;
            };
            let about = |reason| format!("file {index}, step {number}: {reason}");
            match *known {
                Some(content) => check(&path, content, random.below(2) == 0).map_err(about)?,
                None if fs::exists(&path).unwrap_or(true) => {
                    return Err(about("it was removed and is there".to_string()));
                }
                None => {}
            }
            if known.is_some() && random.below(4) == 0 {
                fs::remove_file(&path).map_err(failed("removing a file"))?;
                *known = None;
            } else {
                let bytes = usize::try_from(random.below(MAX_BYTES)).unwrap_or(0);
                let content = Content { seed: number, bytes };
                write(&path, content).map_err(about)?;
                *known = Some(content);
            }
            folder.sync_all().map_err(failed("syncing the folder"))?;
            board.done(Kind::Files);
            rest();
        }
        Ok(())
    })
}

fn write(path: &str, content: Content) -> Result<(), String> {
    let draft = format!("{FOLDER}/draft");
    let mut bytes = vec![0; content.bytes];
    pattern::fill(content.seed, 0, &mut bytes);
    let mut file = File::create(&draft).map_err(failed("creating it"))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed("writing it"))?;
    fs::rename(&draft, path).map_err(failed("renaming it"))
}

/// Checks the content of a file: in the kernel's cache, or on the disk.
fn check(path: &str, content: Content, from_disk: bool) -> Result<(), String> {
    let mut file = File::open(path).map_err(failed("opening it"))?;
    if from_disk {
        // The file's pages are clean, so the kernel follows the advice and drops them.
        // SAFETY: takes no pointer.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed("reading it"))?;
    if bytes.len() != content.bytes {
        return Err(format!("it has {} bytes instead of {}", bytes.len(), content.bytes));
    }
    pattern::mismatch(content.seed, 0, &bytes).map_or(Ok(()), |wrong| Err(format!("byte {wrong} is wrong")))
}
