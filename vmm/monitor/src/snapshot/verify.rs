//! Reads all of a snapshot's folder and finds what is damaged.
//!
//! A restore reads little of a snapshot, and compares no checksums of pages. So a bit that has flipped on a disk is found
//! here, or by the guest.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use hearth_vmm_api::snapshot::folder::{BASE, MEMORY, STATE, WORKING_SET};
use hearth_vmm_api::snapshot::memory_file::{self, MemoryFileError};
use hearth_vmm_api::snapshot::state_file::{self, StateError};

use super::PAGE;
use super::working_set::{WorkingSet, WorkingSetError};

/// What is wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be opened.
    #[error("opening {path}: {source}; is that the folder of a snapshot?")]
    Open {
        /// The file.
        path: PathBuf,
        /// The error that the host returned.
        source: io::Error,
    },
    /// The file `state` is damaged.
    #[error("{path}: {source}")]
    State {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: StateError,
    },
    /// The file `memory` is damaged.
    #[error("{path}: {source}")]
    Memory {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: MemoryFileError,
    },
    /// The file `working-set` is damaged.
    #[error("{path}: {source}")]
    WorkingSet {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        source: WorkingSetError,
    },
}

/// A folder without damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The folder.
    pub folder: PathBuf,
    /// Number of pages of memory that were compared with their checksums; `None` if the file has none.
    pub memory: Option<u64>,
    /// The same of the working set, where there is one.
    pub working_set: Option<Option<u64>>,
}

/// Verifies a folder, and the one on which it builds. The contents of disks have no checksums.
///
/// # Errors
/// [`VerifyError`] for the first thing that is wrong, by file and place.
pub fn verify(folder: &Path) -> Result<Vec<Verified>, VerifyError> {
    let mut verified = vec![verify_one(folder)?];
    let base = folder.join(BASE);
    if base.symlink_metadata().is_ok() {
        verified.push(verify_one(&base)?);
    }
    Ok(verified)
}

fn verify_one(folder: &Path) -> Result<Verified, VerifyError> {
    let open = |name: &str| {
        let path = folder.join(name);
        File::open(&path).map_err(|source| VerifyError::Open { path, source })
    };
    let path = || folder.to_owned();
    let state =
        state_file::read(&open(STATE)?).map_err(|source| VerifyError::State { path: path(), source })?;
    let bytes = state.memory.as_ref().map_or(0, |memory| memory.bytes);
    let file = open(MEMORY)?;
    let memory = memory_file::check(&file, MEMORY, bytes, &state.snapshot_id)
        .and_then(|()| memory_file::verify(&file, MEMORY))
        .map_err(|source| VerifyError::Memory { path: path(), source })?;
    let working_set = match open(WORKING_SET) {
        Ok(file) => Some(
            WorkingSet::verify(&file, &state.snapshot_id, bytes / PAGE)
                .map_err(|source| VerifyError::WorkingSet { path: path(), source })?,
        ),
        Err(VerifyError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(Verified { folder: path(), memory, working_set })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt as _, symlink};

    use hearth_proto::vmm::v1::{SavedMachine, SavedMemory};
    use vm_memory::{Bytes as _, GuestAddress};

    use super::*;
    use crate::memory::{DRAM_BASE, GuestMemory, MIB, map_anonymous};
    use crate::snapshot::load::{Backing, LoadMode, load};
    use crate::snapshot::save::{Cancel, Memory};

    const BYTES: u64 = 128 * MIB;

    /// Writes the files of a snapshot into a folder: a diff where there is a backing.
    fn save(folder: &Path, id: u8, memory: &GuestMemory, backing: Option<&Backing>) -> SavedMachine {
        let create = |name| File::create_new(folder.join(name)).unwrap();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let (source, file) = (Memory { memory, pagemap: &pagemap, backing }, create(MEMORY));
        let written = match backing {
            Some(_) => source.write_diff(&file, &[id; 16], &Cancel::default()),
            None => source.write_full(&file, &[id; 16], &Cancel::default()),
        };
        let written = written.unwrap();
        let memory = SavedMemory {
            bytes: BYTES,
            data: written.data.to_pairs(),
            zero: written.zero.to_pairs(),
            base_data: backing.map(|backing| backing.base_data.to_pairs()).unwrap_or_default(),
        };
        let state = SavedMachine {
            snapshot_id: vec![id; 16],
            base_id: backing.map(|backing| backing.base_id.clone()).unwrap_or_default(),
            memory: Some(memory),
            ..state_file::decode(include_bytes!("../../../api/tests/golden/state-v1-max")).unwrap()
        };
        create(STATE).write_all_at(&state_file::encode(&state), 0).unwrap();
        state
    }

    fn open(folder: &Path, name: &str) -> File {
        File::options().read(true).write(true).open(folder.join(name)).unwrap()
    }

    #[test]
    fn a_flipped_bit_is_found_by_file_and_place_in_a_snapshot_and_its_base() {
        let root = tempfile::tempdir().unwrap();
        let [image, suspended] = ["image", "suspended"].map(|name| root.path().join(name));
        [&image, &suspended].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let memory = map_anonymous(128).unwrap();
        memory.write_slice(&[9; 40 << 12], GuestAddress(DRAM_BASE + (100 << 12))).unwrap();
        let state = save(&image, 1, &memory, None);
        let clone = load(&state, open(&image, MEMORY), None, LoadMode::Map).unwrap();
        let mut set = WorkingSet::default();
        (100..110).for_each(|page| set.push(page, false));
        set.write(&File::create_new(image.join(WORKING_SET)).unwrap(), &clone.backing).unwrap();
        clone.memory.write_slice(&[8; 3 << 12], GuestAddress(DRAM_BASE + (7 << 12))).unwrap();
        save(&suspended, 2, &clone.memory, Some(&clone.backing));
        symlink("../image", suspended.join(BASE)).unwrap();

        let [found, base] = verify(&suspended).unwrap().try_into().unwrap();
        assert_eq!((found.memory, found.working_set), (Some(3), None));
        assert_eq!((base.memory, base.working_set), (Some(40), Some(Some(10))));
        for (folder, name, at, words) in [
            (&suspended, MEMORY, 8 << 12, "suspended: the file `memory` is damaged: its 4096 bytes at 32768"),
            (
                &image,
                MEMORY,
                (139 << 12) + 4095,
                "base: the file `memory` is damaged: its 4096 bytes at 569344",
            ),
            (&image, WORKING_SET, 3 * 4096 + 5, "base: the working set is damaged: its packed page 2"),
            (&image, STATE, 33, "base: the saved state is damaged"),
        ] {
            let file = open(folder, name);
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
            let message = verify(&suspended).unwrap_err().to_string();
            assert!(message.contains(words), "`{words}` is not in: {message}");
            file.write_all_at(&byte, at).unwrap();
        }
        verify(&suspended).unwrap();
    }
}
