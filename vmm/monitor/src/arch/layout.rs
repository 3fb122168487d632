//! The guest-physical address space and interrupt numbers of the board.
//!
//! ```text
//! 0x0800_0000  GICv3 distributor            64 KiB
//! 0x080A_0000  GICv3 redistributors         128 KiB per vCPU
//! 0x0900_0000  UART (16550A)                4 KiB
//! 0x0901_0000  RTC (PL031)                  4 KiB
//! 0x0A00_0000  virtio-mmio, 32 slots        4 KiB each
//! 0x0B00_0000  VM generation id             64 KiB (RAM, outside /memory)
//! 0x8000_0000  DRAM: kernel first; initramfs and DeviceTree last
//! ```
//!
//! A guest learns these addresses only from its DeviceTree. They are fixed because a snapshot depends on them.

use crate::devices::virtio::mmio::MMIO_WINDOW;

/// Base address of the GICv3 distributor.
pub const GIC_DISTRIBUTOR: u64 = 0x0800_0000;
/// Size of the distributor's window in bytes.
pub const GIC_DISTRIBUTOR_SIZE: u64 = 0x1_0000;
/// Base address of the GICv3 redistributors, which follow one another.
pub const GIC_REDISTRIBUTOR: u64 = 0x080A_0000;
/// Size of one vCPU's redistributor in bytes.
pub const GIC_REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

/// Base address of the UART.
pub const UART: u64 = 0x0900_0000;
/// Size of the UART's window in bytes.
pub const UART_SIZE: u64 = 0x1000;
/// Base address of the RTC.
pub const RTC: u64 = 0x0901_0000;
/// Size of the RTC's window in bytes.
pub const RTC_SIZE: u64 = 0x1000;

/// Base address of the first virtio-mmio slot.
pub const VIRTIO: u64 = 0x0A00_0000;

/// Base address of the VM generation id's window.
pub const VMGENID: u64 = 0x0B00_0000;

/// Bytes at the end of memory that are kept for the DeviceTree.
pub const FDT_SIZE: u64 = 2 << 20;
/// Alignment in bytes of the kernel's load address and of the DeviceTree
/// (Linux, Documentation/arch/arm64/booting.rst).
pub const KERNEL_ALIGNMENT: u64 = 2 << 20;

/// Shared peripheral interrupts (SPIs) of the board, counted from 0 (interrupt id 32); KVM's irqfd takes the same
/// numbers.
pub mod spi {
    /// SPI of the UART.
    pub const UART: u32 = 0;
    /// SPI of the RTC.
    pub const RTC: u32 = 1;
    /// SPI of the VM generation id.
    pub const VMGENID: u32 = 2;
    /// SPI of the first virtio-mmio slot; the other slots follow.
    pub const VIRTIO: u32 = 16;
}

/// Number of interrupt ids of the GIC: 32 private ones and the shared ones, rounded up to a multiple of 32.
pub const GIC_INTERRUPTS: u32 = 96;

/// Base address of virtio-mmio slot `slot`.
#[must_use]
pub fn virtio_base(slot: u16) -> u64 {
    VIRTIO + MMIO_WINDOW * u64::from(slot)
}

/// Shared peripheral interrupt of virtio-mmio slot `slot`.
#[must_use]
pub fn virtio_spi(slot: u16) -> u32 {
    spi::VIRTIO + u32::from(slot)
}

#[cfg(test)]
mod tests {
    use hearth_vmm_api::limits::{VCPU_RANGE, VIRTIO_SLOTS};

    use super::*;
    use crate::memory::DRAM_BASE;

    #[test]
    fn no_two_windows_overlap_and_all_lie_below_dram() {
        let windows = [
            (GIC_DISTRIBUTOR, GIC_DISTRIBUTOR_SIZE),
            (GIC_REDISTRIBUTOR, GIC_REDISTRIBUTOR_SIZE * u64::from(*VCPU_RANGE.end())),
            (UART, UART_SIZE),
            (RTC, RTC_SIZE),
            (VIRTIO, MMIO_WINDOW * u64::from(VIRTIO_SLOTS)),
            (VMGENID, 0x1_0000),
            (DRAM_BASE, 1),
        ];
        for pair in windows.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        assert!(32 + virtio_spi(VIRTIO_SLOTS - 1) < GIC_INTERRUPTS);
    }
}
