//! Guest memory: one contiguous range of guest-physical addresses from [`DRAM_BASE`], mapped privately into
//! the monitor. `vm-memory` checks every address that a guest passes against this mapping, so
//! a guest cannot make a device access memory outside the guest.

use hearth_vmm_api::limits::{MemoryOutOfRange, check_memory};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Guest-physical address of the first byte of guest memory.
pub const DRAM_BASE: u64 = 0x8000_0000;

/// Bytes in one MiB.
pub const MIB: u64 = 1 << 20;

/// The mapping of guest memory that every device works on. Cloning it is cheap (shared regions).
pub type GuestMemory = GuestMemoryMmap<()>;

/// Why guest memory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is out of range.
    #[error(transparent)]
    OutOfRange(#[from] MemoryOutOfRange),
    /// The host refused the mapping.
    #[error(
        "cannot map {mib} MiB of guest memory: {source}; is the host or the cgroup out of memory or address space?"
    )]
    Map {
        /// The requested size, in MiB.
        mib: u64,
        /// Error from the host.
        source: std::io::Error,
    },
}

/// Maps `mib` MiB of zeroed private anonymous guest memory at [`DRAM_BASE`].
///
/// # Errors
/// [`MemoryError`] when the size is out of range or the host refuses the mapping.
pub fn map_anonymous(mib: u64) -> Result<GuestMemory, MemoryError> {
    check_memory(mib)?;
    map_unchecked(mib * MIB).map_err(|source| MemoryError::Map { mib, source })
}

/// Maps `bytes` of guest memory without the range check; tests use small guests.
pub(crate) fn map_unchecked(bytes: u64) -> Result<GuestMemory, std::io::Error> {
    let size = usize::try_from(bytes).map_err(std::io::Error::other)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let region = MmapRegion::build(None, size, libc::PROT_READ | libc::PROT_WRITE, flags)
        .map_err(std::io::Error::other)?;
    let region = GuestRegionMmap::new(region, GuestAddress(DRAM_BASE))
        .ok_or_else(|| std::io::Error::other("guest memory wraps the address space"))?;
    GuestMemory::from_regions(vec![region]).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend as _};

    use super::*;

    #[test]
    fn sizes_outside_the_range_are_refused_by_name() {
        for mib in [0, 127, 32 * 1024 + 1, u64::MAX] {
            let message = map_anonymous(mib).unwrap_err().to_string();
            assert!(message.contains(&mib.to_string()) && message.contains("128 to 32768"), "{message}");
        }
    }

    #[test]
    fn memory_starts_at_dram_base_and_ends_after_its_size() {
        let memory = map_anonymous(128).unwrap();
        let last = DRAM_BASE + 128 * MIB - 1;
        assert!(
            memory.address_in_range(GuestAddress(DRAM_BASE)) && memory.address_in_range(GuestAddress(last))
        );
        assert!(!memory.address_in_range(GuestAddress(last + 1)));
        assert_eq!(memory.read_obj::<u64>(GuestAddress(DRAM_BASE)).unwrap(), 0);
    }
}
