//! The arguments. They are found by searching for their names anywhere in the device tree.

/// Maximum number of bytes of the device tree that are searched.
const MAX_FDT: u32 = 256 * 1024;

/// The arguments of the guest.
pub(crate) struct BootArgs {
    /// The seed that determines everything the guest does.
    pub(crate) seed: u32,
    /// Number of steps of every CPU.
    pub(crate) steps: u32,
    /// Guest memory in MiB.
    pub(crate) ram_mib: u32,
    /// Number of CPUs that take part.
    pub(crate) cpus: u32,
    /// Whether to end with an access that KVM cannot decode.
    pub(crate) end_undecodable: bool,
    /// Whether to end with an access to a register of EL2.
    pub(crate) end_el2: bool,
    /// Whether the device tree describes an ITS.
    pub(crate) its: bool,
}

impl BootArgs {
    /// Finds the arguments in the device tree at `fdt`.
    pub(crate) fn find(fdt: u64) -> Self {
        // SAFETY: the boot protocol puts an 8-byte-aligned device tree there, and its second word is its size.
        let size = u32::from_be(unsafe { core::ptr::read_volatile((fdt as *const u32).add(1)) });
        // SAFETY: the device tree has this length, lies in mapped memory, and nothing writes to it yet.
        let bytes = unsafe { core::slice::from_raw_parts(fdt as *const u8, size.min(MAX_FDT) as usize) };
        Self {
            seed: number(bytes, b"seed=").unwrap_or(1),
            steps: number(bytes, b"steps=").unwrap_or(1000),
            ram_mib: number(bytes, b"ram=").unwrap_or(128),
            cpus: number(bytes, b"cpus=").unwrap_or(1),
            end_undecodable: position(bytes, b"end=nisv").is_some(),
            end_el2: position(bytes, b"end=el2").is_some(),
            its: position(bytes, b"gic-v3-its").is_some(),
        }
    }
}

fn position(bytes: &[u8], name: &[u8]) -> Option<usize> {
    (0..bytes.len()).find(|start| bytes[*start..].starts_with(name))
}

fn number(bytes: &[u8], name: &[u8]) -> Option<u32> {
    let digits = bytes.get(position(bytes, name)? + name.len()..)?;
    let mut value = 0_u32;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        value = value.wrapping_mul(10).wrapping_add(u32::from(*digit - b'0'));
    }
    Some(value)
}
