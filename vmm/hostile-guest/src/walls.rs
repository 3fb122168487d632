//! What no guest has: EL2 (nested virtualisation) and an ITS (message-signalled interrupts).

use core::arch::asm;

use crate::board::{GIC, print, read32};

/// Registers of the GIC's distributor and redistributors (Arm IHI 0069, 12.9 and 12.11).
const GICD_TYPER: u64 = 0x4;
const GICR_TYPER: u64 = 0x8;

/// Prints one line of what the CPU, the interrupt controller and the device tree say. The CPU's identification registers
/// say nothing of EL2 in a guest: KVM (Linux 6.12) shows those fields as the host has them.
pub(crate) fn report(its_in_fdt: bool) {
    let level: u64;
    // SAFETY: reads a register that changes nothing.
    unsafe { asm!("mrs {0}, CurrentEL", out(reg) level) };
    let [distributor, redistributor] = GIC;
    for (name, value) in [
        ("WALLS el=", level >> 2),
        (" gicd_lpis=", u64::from(read32(distributor + GICD_TYPER)) >> 17 & 1),
        (" gicr_plpis=", u64::from(read32(redistributor + GICR_TYPER)) & 1),
        (" fdt_its=", u64::from(its_in_fdt)),
    ] {
        print(name);
        let digit = value as usize & 0xf;
        print("0123456789abcdef".get(digit..=digit).unwrap_or_default());
    }
    print("\n");
}

/// Reads a register that exists at EL2 only. At EL1 that is an undefined instruction, which ends this guest.
pub(crate) fn access_el2() {
    // SAFETY: reads a register into another one.
    unsafe { asm!("mrs {0}, HCR_EL2", out(reg) _) };
}
