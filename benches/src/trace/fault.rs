//! Decodes stage-2 faults.

use hearth_vmm::arch::layout;

/// Why the guest's access failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An instruction fetch from a page that is not mapped.
    Fetch,
    /// A read of a page that is not mapped.
    Read,
    /// A write to a page that is not mapped.
    Write,
    /// The processor's walk through the guest's own page tables met a page that is not mapped.
    Walk,
    /// An instruction fetch from a page that is mapped, but not executable: it was read before, by a processor whose caches are not
    /// coherent for instructions (`CTR_EL0.DIC` is 0).
    FetchOfMapped,
    /// A write to a page that is mapped, but not writable: it was read or executed before.
    WriteToMapped,
    /// Any other fault, such as access flags.
    Other,
    /// An access to registers of a device instead of memory.
    Device,
}

/// Exception class of an instruction abort from a lower exception level.
const INSTRUCTION_ABORT: u64 = 0x20;
/// Fault status without the level: the page is not mapped.
const TRANSLATION: u64 = 0b0001;
/// Fault status without the level: the page is mapped, but does not permit the access.
const PERMISSION: u64 = 0b0011;
/// The access was a write.
const WRITE: u64 = 1 << 6;
/// The access was a walk through stage-1 tables.
const STAGE_1_WALK: u64 = 1 << 7;

impl Kind {
    /// All kinds, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Fetch,
        Self::Read,
        Self::Write,
        Self::Walk,
        Self::FetchOfMapped,
        Self::WriteToMapped,
        Self::Other,
        Self::Device,
    ];

    /// Name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Read => "read",
            Self::Write => "write",
            Self::Walk => "table walk",
            Self::FetchOfMapped => "permission to execute",
            Self::WriteToMapped => "permission to write",
            Self::Other => "other",
            Self::Device => "device",
        }
    }

    /// The kind of a fault at the guest-physical address `ipa` with syndrome `esr` (Arm ARM, ESR_EL2: the exception class in bits
    /// 26 to 31, and the ISS of instruction and data aborts).
    #[must_use]
    pub fn of(esr: u64, ipa: u64) -> Self {
        // Memory begins with the generation id, which lies before DRAM; addresses below are devices.
        if ipa < layout::VMGENID {
            return Self::Device;
        }
        let fetch = (esr >> 26) & 0x3f == INSTRUCTION_ABORT;
        match ((esr >> 2) & 0xf, esr & STAGE_1_WALK != 0) {
            (TRANSLATION, true) => Self::Walk,
            (TRANSLATION, false) if fetch => Self::Fetch,
            (TRANSLATION, false) if esr & WRITE != 0 => Self::Write,
            (TRANSLATION, false) => Self::Read,
            (PERMISSION, false) if fetch => Self::FetchOfMapped,
            (PERMISSION, walk) if walk || esr & WRITE != 0 => Self::WriteToMapped,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 0x8012_3000;

    #[test]
    fn a_syndrome_says_what_the_guest_wanted() {
        for (esr, kind) in [
            (0x8200_0007, Kind::Fetch),
            (0x9200_0007, Kind::Read),
            (0x9380_8006, Kind::Read),
            (0x9200_0047, Kind::Write),
            (0x8200_0087, Kind::Walk),
            (0x9200_0087, Kind::Walk),
            (0x8200_000f, Kind::FetchOfMapped),
            (0x9200_004f, Kind::WriteToMapped),
            (0x9200_00cf, Kind::WriteToMapped),
            (0x9200_000b, Kind::Other),
            (0, Kind::Other),
            (u64::MAX, Kind::Other),
        ] {
            assert_eq!(Kind::of(esr, RAM), kind, "{esr:#x}");
        }
    }

    #[test]
    fn what_lies_below_memory_is_a_device() {
        assert_eq!(Kind::of(0x9200_0047, layout::UART), Kind::Device);
        assert_eq!(Kind::of(0x9200_0007, layout::VMGENID), Kind::Read);
    }
}
