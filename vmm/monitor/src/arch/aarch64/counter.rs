//! The generic timer's counter, from which the guest's clocks derive the time.
//!
//! The guest's counter is the host's minus an offset that all vCPUs share (`KVM_ARM_SET_COUNTER_OFFSET`, Linux 6.4,
//! Documentation/virt/kvm/api.rst). The offset is set before any timer register: a timer that is compared with a
//! counter of another time would fire at once, or never.

use std::arch::asm;

/// The host's present counter value (`CNTVCT_EL0`; the host's own offset is 0).
#[must_use]
pub fn now() -> u64 {
    let count: u64;
    // SAFETY: reads a counter that Linux lets every process read.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack)) };
    count
}

/// The counter's frequency in Hz (`CNTFRQ_EL0`).
#[must_use]
pub fn frequency() -> u64 {
    let frequency: u64;
    // SAFETY: reads a register that Linux lets every process read.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    frequency
}

/// The offset with which a guest's counter continues at `count` plus `advance_ns` nanoseconds.
#[must_use]
pub fn offset_for(count: u64, advance_ns: u64) -> u64 {
    let ticks = u128::from(advance_ns) * u128::from(frequency()) / 1_000_000_000;
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
    // Modulo 2^64, as the hardware computes it: the guest's counter may be ahead of this host's.
    now().wrapping_sub(count.wrapping_add(ticks))
}
