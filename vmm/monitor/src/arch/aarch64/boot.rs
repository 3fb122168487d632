//! Loads a kernel and an initramfs into guest memory.
//!
//! ```text
//! DRAM_BASE ┌ kernel (Image) … end of its bss ┐   …   ┌ initramfs ┐┌ DeviceTree ┐ end of memory
//! ```

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use linux_loader::loader::{KernelLoader as _, pe::PE};
use vm_memory::{Address, Bytes as _, GuestAddress, GuestMemoryBackend as _};

use crate::arch::layout::{FDT_SIZE, KERNEL_ALIGNMENT};
use crate::memory::{DRAM_BASE, GuestMemory, MIB};

/// Size in bytes of the header of an arm64 `Image` (Linux, Documentation/arch/arm64/booting.rst).
const HEADER_SIZE: usize = 64;

/// Why a guest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel is not an arm64 `Image`.
    #[error(
        "the kernel is not an arm64 Image ({0}): pass an uncompressed arch/arm64/boot/Image, not a vmlinux, a vmlinuz or another machine's kernel"
    )]
    NotAnImage(String),
    /// The kernel and the initramfs do not fit into the guest's memory.
    #[error(
        "the kernel needs {needed} MiB of memory with its data, the initramfs {initramfs} MiB, and the guest has {memory} MiB: give it more memory"
    )]
    TooLarge {
        /// Memory that the kernel needs, in MiB, rounded up.
        needed: u64,
        /// Memory that the initramfs needs, in MiB, rounded up.
        initramfs: u64,
        /// The guest's memory in MiB.
        memory: u64,
    },
    /// The initramfs has no bytes.
    #[error("the initramfs is empty: pass a cpio archive, or none")]
    EmptyInitramfs,
    /// A file could not be read.
    #[error("reading the {what}: {source}")]
    Read {
        /// The file: `kernel` or `initramfs`.
        what: &'static str,
        /// Error from the host.
        source: io::Error,
    },
    /// A file was shorter than its size was before.
    #[error("the {what} ended {missing} bytes early: it was cut off, or changed while it was read")]
    Truncated {
        /// The file: `initramfs`.
        what: &'static str,
        /// Number of missing bytes.
        missing: u64,
    },
}

/// Addresses at which the parts of the guest were loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Guest address of the kernel's first instruction.
    pub entry: u64,
    /// Guest address and size of the initramfs.
    pub initramfs: Option<(u64, u64)>,
    /// Guest address for the DeviceTree, for which [`FDT_SIZE`] bytes are reserved.
    pub fdt: u64,
}

fn reading(what: &'static str) -> impl Fn(io::Error) -> LoadError {
    move |source| LoadError::Read { what, source }
}

fn size_of_file(mut file: &File, what: &'static str) -> Result<u64, LoadError> {
    let size = file.seek(SeekFrom::End(0)).map_err(reading(what))?;
    file.rewind().map_err(reading(what))?;
    Ok(size)
}

/// Memory in bytes that the kernel occupies, counted from `DRAM_BASE`, including its bss: `text_offset` plus
/// `image_size` of the header, but at least the size of the file.
fn image_size(mut kernel: &File, file_size: u64) -> Result<u64, LoadError> {
    if file_size < HEADER_SIZE as u64 {
        return Err(LoadError::NotAnImage(format!("{file_size} bytes are less than its header")));
    }
    let mut header = [0; HEADER_SIZE];
    kernel.read_exact(&mut header).map_err(reading("kernel"))?;
    kernel.rewind().map_err(reading("kernel"))?;
    let word = |at: usize| {
        header.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    if word(56) & 0xffff_ffff != u64::from(u32::from_le_bytes(*b"ARM\x64")) {
        return Err(LoadError::NotAnImage("its magic number is missing".into()));
    }
    Ok(word(8).saturating_add(word(16)).max(file_size))
}

/// Loads `kernel` and `initramfs` into `memory`.
///
/// # Errors
/// [`LoadError`]; `memory` may have been partly written then.
pub fn load(memory: &GuestMemory, kernel: &File, initramfs: Option<&File>) -> Result<Loaded, LoadError> {
    let kernel_size = size_of_file(kernel, "kernel")?;
    let needed = image_size(kernel, kernel_size)?;
    let initramfs_size = initramfs.map(|file| size_of_file(file, "initramfs")).transpose()?;
    if initramfs_size == Some(0) {
        return Err(LoadError::EmptyInitramfs);
    }
    let end = memory.last_addr().raw_value() + 1;
    let fdt = (end - FDT_SIZE) & !(KERNEL_ALIGNMENT - 1);
    let too_large = || LoadError::TooLarge {
        needed: needed.div_ceil(MIB),
        initramfs: initramfs_size.unwrap_or(0).div_ceil(MIB),
        memory: (end - DRAM_BASE) / MIB,
    };
    let room = (fdt - DRAM_BASE).checked_sub(needed).ok_or_else(too_large)?;
    let initramfs_at = match initramfs_size {
        Some(size) if size.next_multiple_of(4096) <= room => Some(fdt - size.next_multiple_of(4096)),
        Some(_) => return Err(too_large()),
        None => None,
    };
    let mut reader = kernel.try_clone().map_err(reading("kernel"))?;
    let loaded = PE::load(memory, Some(GuestAddress(DRAM_BASE)), &mut reader, None)
        .map_err(|error| LoadError::NotAnImage(error.to_string()))?;
    if let (Some(file), Some(size), Some(at)) = (initramfs, initramfs_size, initramfs_at) {
        let mut reader = file.try_clone().map_err(reading("initramfs"))?;
        let count = usize::try_from(size).map_err(|_| too_large())?;
        let read = memory
            .read_volatile_from(GuestAddress(at), &mut reader, count)
            .map_err(|error| reading("initramfs")(io::Error::other(error)))?;
        if read < count {
            return Err(LoadError::Truncated { what: "initramfs", missing: size - read as u64 });
        }
    }
    Ok(Loaded { entry: loaded.kernel_load.raw_value(), initramfs: initramfs_at.zip(initramfs_size), fdt })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::memory::map_anonymous;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn image(image_size: u64) -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[16..24].copy_from_slice(&image_size.to_le_bytes());
        image[56..60].copy_from_slice(b"ARM\x64");
        image
    }

    #[test]
    fn a_kernel_and_an_initramfs_lie_where_the_boot_protocol_wants_them() {
        let memory = map_anonymous(128).unwrap();
        let end = DRAM_BASE + 128 * MIB;
        let loaded = load(&memory, &file(&image(1 << 20)), Some(&file(&[7; 5000]))).unwrap();
        assert_eq!(loaded.entry, DRAM_BASE);
        assert_eq!(loaded.fdt, end - FDT_SIZE);
        assert_eq!(loaded.initramfs, Some((end - FDT_SIZE - 8192, 5000)));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(end - FDT_SIZE - 8192 + 4999)).unwrap(), 7);
    }

    #[test]
    fn what_is_no_kernel_or_does_not_fit_is_refused_with_the_reason() {
        let memory = map_anonymous(128).unwrap();
        let refused = |kernel: &[u8], initramfs: Option<&File>| {
            load(&memory, &file(kernel), initramfs).unwrap_err().to_string()
        };
        assert!(refused(b"", None).contains("0 bytes are less than its header"));
        assert!(refused(&[0; 4096], None).contains("not an arm64 Image"));
        assert!(refused(&image(128 << 20), None).contains("needs 128 MiB"));
        assert!(refused(&image(4096), Some(&file(b""))).contains("initramfs is empty"));
        let sparse = file(b"");
        sparse.set_len(126 << 20).unwrap();
        assert!(refused(&image(4096), Some(&sparse)).contains("initramfs 126 MiB"));
    }
}
