//! The sizes that a microVM may have.

use std::ops::RangeInclusive;

/// The numbers of vCPUs that a microVM may have.
pub const VCPU_RANGE: RangeInclusive<u32> = 1..=16;

/// The memory sizes that a microVM may have, in MiB.
pub const MEMORY_MIB_RANGE: RangeInclusive<u64> = 128..=32 * 1024;

/// Number of the board's virtio-mmio slots: the virtio devices that a microVM may have.
pub const VIRTIO_SLOTS: u16 = 32;

/// The memory size, in MiB, is outside [`MEMORY_MIB_RANGE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("memory size {0} MiB is out of range: a microVM has {min} to {max} MiB",
        min = MEMORY_MIB_RANGE.start(), max = MEMORY_MIB_RANGE.end())]
pub struct MemoryOutOfRange(pub u64);

/// Checks a memory size in MiB.
///
/// # Errors
/// [`MemoryOutOfRange`].
pub fn check_memory(mib: u64) -> Result<(), MemoryOutOfRange> {
    if MEMORY_MIB_RANGE.contains(&mib) { Ok(()) } else { Err(MemoryOutOfRange(mib)) }
}
