//! The generation of this host's processor, as builds name it.
//!
//! Snapshots can be restored only on a processor that has the features they were taken with, so builds are per
//! generation (docs/behaviour.md, "Build records").

use std::path::Path;

/// The generation of a processor that is none of the known ones.
pub const UNKNOWN: &str = "unknown";

/// MIDR_EL1 of the first CPU, as Linux shows it (Documentation/arch/arm64/cpu-feature-registers.rst).
const MIDR: &str = "/sys/devices/system/cpu/cpu0/regs/identification/midr_el1";

/// The generation of this host: `2`, `3`, `4`, or [`UNKNOWN`].
#[must_use]
pub fn of_host() -> &'static str {
    read(Path::new(MIDR))
}

fn read(path: &Path) -> &'static str {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let digits = text.trim().trim_start_matches("0x");
    u64::from_str_radix(digits, 16).map_or(UNKNOWN, generation)
}

/// Arm's cores in Graviton processors, by the implementer and part number of MIDR_EL1 (Arm ARM, D24.2.122).
fn generation(midr: u64) -> &'static str {
    const ARM: u64 = 0x41;
    match ((midr >> 24) & 0xff, (midr >> 4) & 0xfff) {
        (ARM, 0xd0c) => "2", // Neoverse N1
        (ARM, 0xd40) => "3", // Neoverse V1
        (ARM, 0xd4f) => "4", // Neoverse V2
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_of_graviton_have_its_generation_and_others_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("midr_el1");
        let cases = [
            ("0x00000000413fd0c1\n", "2"),
            ("0x00000000411fd401\n", "3"),
            ("0x00000000410fd4f0\n", "4"),
            ("0x00000000611f0221\n", UNKNOWN),
            ("0x00000000610fd0c1\n", UNKNOWN),
            ("what?", UNKNOWN),
        ];
        for (midr, expected) in cases {
            std::fs::write(&path, midr).unwrap();
            assert_eq!(read(&path), expected, "{midr}");
        }
        assert_eq!(read(&folder.path().join("missing")), UNKNOWN);
    }
}
