//! Memory, CPUs and disk of a memory class.

use std::fmt;

/// A user's `minimumMemoryInMiB`: one of five sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MemoryClass(u32);

/// Error: the size is none of the five.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} MiB is not a memory size; supported are: {sizes:?}", sizes = MemoryClass::SIZES)]
pub struct NotAMemoryClass(pub u32);

const GIB: u64 = 1 << 30;

impl MemoryClass {
    /// All sizes, in MiB.
    pub const SIZES: [u32; 5] = [512, 1024, 2048, 4096, 8192];

    /// The default size, in MiB.
    pub const DEFAULT: Self = Self(2048);

    /// The largest size.
    pub const LARGEST: Self = Self(8192);

    /// All classes, the smallest first.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::SIZES.into_iter().map(Self)
    }

    /// The size in MiB.
    #[must_use]
    pub fn mib(self) -> u32 {
        self.0
    }

    /// Size of the root disk in bytes.
    #[must_use]
    pub fn disk_bytes(self) -> u64 {
        match self.0 {
            ..=2048 => 8 * GIB,
            2049..=4096 => 16 * GIB,
            _ => 32 * GIB,
        }
    }

    /// The shape of a guest whose memory may burst to `burst` times the class: the memory and the CPUs of the peak.
    #[must_use]
    pub fn shape(self, burst: Burst) -> Shape {
        Shape { memory_mib: u64::from(self.0) * u64::from(burst.0), vcpus: (self.0 / 512).max(1) }
    }
}

impl TryFrom<u32> for MemoryClass {
    type Error = NotAMemoryClass;

    fn try_from(mib: u32) -> Result<Self, NotAMemoryClass> {
        if Self::SIZES.contains(&mib) { Ok(Self(mib)) } else { Err(NotAMemoryClass(mib)) }
    }
}

impl From<MemoryClass> for u32 {
    fn from(class: MemoryClass) -> Self {
        class.0
    }
}

impl fmt::Display for MemoryClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

/// Factor of a guest's peak memory to its memory class: 1 to 4. AWS has 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Burst(u32);

/// Error: the factor is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a burst factor of {0} is out of range: give 1 to 4")]
pub struct NotABurst(pub u32);

impl Burst {
    /// AWS's factor, which Hearth uses on real metal.
    pub const AWS: Self = Self(4);
    /// No burst: fits on an emulated host.
    pub const NONE: Self = Self(1);
}

impl TryFrom<u32> for Burst {
    type Error = NotABurst;

    fn try_from(factor: u32) -> Result<Self, NotABurst> {
        if (1..=4).contains(&factor) { Ok(Self(factor)) } else { Err(NotABurst(factor)) }
    }
}

impl From<Burst> for u32 {
    fn from(burst: Burst) -> Self {
        burst.0
    }
}

/// Memory and vCPUs of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_classes_have_the_documented_shapes() {
        let shapes = MemoryClass::SIZES.map(|mib| {
            let class = MemoryClass::try_from(mib).unwrap();
            let shape = class.shape(Burst::AWS);
            (shape.memory_mib, shape.vcpus, class.disk_bytes() / GIB)
        });
        assert_eq!(shapes, [(2048, 1, 8), (4096, 2, 8), (8192, 4, 8), (16384, 8, 16), (32768, 16, 32)]);
    }

    #[test]
    fn other_sizes_and_factors_are_refused_by_name() {
        let error = MemoryClass::try_from(600).unwrap_err();
        assert_eq!(
            error.to_string(),
            "600 MiB is not a memory size; supported are: [512, 1024, 2048, 4096, 8192]"
        );
        assert!(Burst::try_from(0).is_err() && Burst::try_from(5).is_err());
    }
}
