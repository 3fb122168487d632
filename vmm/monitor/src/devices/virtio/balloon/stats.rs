//! Memory statistics of the guest (virtio 1.2, 5.5.6.3), which arrive as pairs of tag and value in one buffer.

use super::super::queue::Chain;

/// Size of one entry in bytes: `le16` tag and `le64` value, packed.
const ENTRY: usize = 10;
/// Largest number of entries that are read; the specification defines 10 tags and Linux 16.
const MAX_ENTRIES: usize = 64;

/// The statistics that the guest reported last. `None` marks values that it did not report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// Bytes swapped in since boot.
    pub swap_in: Option<u64>,
    /// Bytes swapped out since boot.
    pub swap_out: Option<u64>,
    /// Major page faults since boot.
    pub major_faults: Option<u64>,
    /// Minor page faults since boot.
    pub minor_faults: Option<u64>,
    /// Bytes of unused memory.
    pub free_memory: Option<u64>,
    /// Bytes of memory in total.
    pub total_memory: Option<u64>,
    /// Bytes of memory that an application can allocate without swapping.
    pub available_memory: Option<u64>,
    /// Bytes of file caches that can be dropped.
    pub disk_caches: Option<u64>,
    /// Huge pages allocated since boot.
    pub hugetlb_allocations: Option<u64>,
    /// Huge page allocations that failed since boot.
    pub hugetlb_failures: Option<u64>,
    /// Processes killed for lack of memory since boot (Linux 6.12).
    pub oom_kills: Option<u64>,
}

impl GuestStats {
    /// Reads a statistics buffer. Unknown tags are skipped; the last value of a tag counts.
    pub(super) fn parse(chain: &Chain) -> Self {
        let mut stats = Self::default();
        let mut entry = [0; ENTRY];
        for index in 0..MAX_ENTRIES {
            if chain.read_at(index * ENTRY, &mut entry) < ENTRY {
                break;
            }
            let [t0, t1, value @ ..] = entry;
            if let Some(field) = stats.field(u16::from_le_bytes([t0, t1])) {
                *field = Some(u64::from_le_bytes(value));
            }
        }
        stats
    }

    fn field(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_memory,
            5 => &mut self.total_memory,
            6 => &mut self.available_memory,
            7 => &mut self.disk_caches,
            8 => &mut self.hugetlb_allocations,
            9 => &mut self.hugetlb_failures,
            10 => &mut self.oom_kills,
            _ => return None,
        })
    }
}
