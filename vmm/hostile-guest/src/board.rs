//! The board's registers, and random accesses to them.

use core::arch::asm;

use crate::random::Random;

/// The 16550 UART.
const UART: u64 = 0x0900_0000;
/// The PL031 clock.
const CLOCK: u64 = 0x0901_0000;
/// The first virtio-mmio slot.
const VIRTIO: u64 = 0x0a00_0000;
/// Size of a slot in bytes.
const SLOT: u64 = 0x1000;
/// Number of slots.
pub(crate) const SLOTS: u64 = 32;
/// The page with the generation id.
const GENERATION_ID: u64 = 0x0b00_0000;
/// The interrupt controller: its distributor, and the redistributors behind it.
pub(crate) const GIC: [u64; 2] = [0x0800_0000, 0x080a_0000];

/// Register QueueNotify (virtio 1.2, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// Returns the address of a virtio-mmio slot.
pub(crate) fn slot(index: u64) -> u64 {
    VIRTIO + index * SLOT
}

/// Reads 32 bits. A refused access returns the previous value of the CPU's register.
pub(crate) fn read32(address: u64) -> u32 {
    let value: u32;
    // SAFETY: the address is a device's; the exception vectors handle refused accesses.
    unsafe { asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) address) };
    value
}

/// Writes 32 bits.
pub(crate) fn write32(address: u64, value: u32) {
    // SAFETY: as for `read32`.
    unsafe { asm!("str {0:w}, [{1}]", in(reg) value, in(reg) address) };
}

fn write8(address: u64, value: u8) {
    // SAFETY: as for `read32`.
    unsafe { asm!("strb {0:w}, [{1}]", in(reg) u32::from(value), in(reg) address) };
}

/// Accesses a device with any width, in either direction.
fn access(random: &mut Random, address: u64, value: u64) {
    // SAFETY: the address is never one of guest memory; the exception vectors handle refused accesses.
    unsafe {
        match random.below(8) {
            0 => asm!("ldrb {0:w}, [{1}]", out(reg) _, in(reg) address),
            1 => asm!("ldrh {0:w}, [{1}]", out(reg) _, in(reg) address),
            2 => asm!("ldr {0:w}, [{1}]", out(reg) _, in(reg) address),
            3 => asm!("ldr {0}, [{1}]", out(reg) _, in(reg) address),
            4 => asm!("strb {0:w}, [{1}]", in(reg) value, in(reg) address),
            5 => asm!("strh {0:w}, [{1}]", in(reg) value, in(reg) address),
            6 => asm!("str {0:w}, [{1}]", in(reg) value, in(reg) address),
            _ => asm!("str {0}, [{1}]", in(reg) value, in(reg) address),
        }
    }
}

/// Returns a random offset: mostly within the registers, and mostly aligned.
fn offset(random: &mut Random, registers: u64, end: u64) -> u64 {
    let offset = if random.one_in(4) { random.below(end) } else { random.below(registers) };
    offset & !random.choose([0, 1, 3, 3, 3, 7])
}

/// Accesses any register of any virtio slot.
pub(crate) fn poke_virtio(random: &mut Random) {
    // The slots in use have the lowest numbers, so those are chosen most often.
    let slots = if random.one_in(4) { SLOTS } else { 8 };
    let address = slot(random.below(slots)) + offset(random, 0x140, SLOT);
    let value = random.number();
    access(random, address, value);
}

/// Accesses any register of the UART or the clock, or the generation id.
pub(crate) fn poke_uart_or_clock(random: &mut Random) {
    let base = random.choose([UART, UART, CLOCK, GENERATION_ID]);
    let address = base + offset(random, 0x20, 0x1000);
    let value = random.number();
    access(random, address, value);
}

/// Accesses any register of the interrupt controller.
pub(crate) fn poke_gic(random: &mut Random) {
    let address = random.choose(GIC) + offset(random, 0x1_0000, 0x2_0000);
    let value = random.number();
    access(random, address, value);
}

/// Accesses an address at which there is neither memory nor, mostly, a device.
pub(crate) fn poke_hole(random: &mut Random) {
    let address = match random.below(4) {
        0 => random.below(0x8000_0000),
        1 => slot(SLOTS) + random.below(SLOT),
        2 => 0x7fff_ffff - random.below(64),
        _ => 0x9_0000_0000 + random.below(0x6_0000_0000),
    };
    let address = address & !random.choose([0, 1, 3, 7]);
    let value = random.number();
    access(random, address, value);
}

/// Sends many notifications at once.
pub(crate) fn notify_storm(random: &mut Random) {
    let base = slot(random.below(8));
    for _ in 0..random.below(64) {
        let queue = if random.one_in(8) { random.next() as u32 } else { random.below(4) as u32 };
        write32(base + QUEUE_NOTIFY, queue);
    }
}

/// Resets the UART to a state in which it prints.
pub(crate) fn reset_uart() {
    write8(UART + 3, 0x03);
    write8(UART + 1, 0);
    write8(UART + 4, 0);
}

/// Prints text.
pub(crate) fn print(text: &str) {
    for byte in text.bytes() {
        write8(UART, byte);
    }
}

/// Reads a device with an instruction whose syndrome does not describe the access.
pub(crate) fn undecodable_access() {
    // SAFETY: the address is a device's; KVM gives up here, so the guest does not continue.
    unsafe { asm!("ldp {0}, {1}, [{2}]", out(reg) _, out(reg) _, in(reg) VIRTIO) };
}

/// Functions to which the compiler generates calls. They work byte by byte, because speed does not matter here.
mod compiler_functions {
    use core::ptr::{read_volatile, write_volatile};

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
        for index in 0..length {
            // SAFETY: the caller owns both ranges.
            unsafe { write_volatile(to.add(index), read_volatile(from.add(index))) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
        for step in 0..length {
            let index = if (to as usize) <= from as usize { step } else { length - 1 - step };
            // SAFETY: the caller owns both ranges.
            unsafe { write_volatile(to.add(index), read_volatile(from.add(index))) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
        for index in 0..length {
            // SAFETY: the caller owns the range.
            unsafe { write_volatile(to.add(index), value as u8) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
        for index in 0..length {
            // SAFETY: the caller owns both ranges.
            let (a, b) = unsafe { (read_volatile(one.add(index)), read_volatile(other.add(index))) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
        // SAFETY: the caller owns both ranges.
        unsafe { memcmp(one, other, length) }
    }
}
