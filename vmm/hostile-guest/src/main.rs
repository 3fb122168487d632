//! A guest that is hostile from its first instruction: it makes random accesses to every register of the board, and
//! sets virtio devices up properly and then gives them rings, descriptors and requests that no driver would write. The
//! argument `seed=` of the kernel command line determines everything. `steps=` is the number of steps, `ram=` the size
//! of memory in MiB, `cpus=` the number of CPUs that take part. With `end=nisv` the guest does not power off but
//! accesses a device with an instruction that KVM cannot decode. With `end=el2` it prints what it finds of nested
//! virtualisation and of an ITS, and accesses a register of EL2.
//!
//! No part of the guest waits or loops without a bound, and no device may write to the program itself: the attacks are
//! meant for the monitor. In the end the guest prints `HOSTILE-DONE` and powers off.
#![no_std]
#![no_main]

mod board;
mod boot;
mod boot_args;
mod chains;
mod driver;
mod payload;
mod random;
mod walls;

use core::sync::atomic::{AtomicU32, Ordering};

use boot_args::BootArgs;
use random::Random;

/// Number of CPUs that have finished, except the first.
static FINISHED: AtomicU32 = AtomicU32::new(0);
/// How often the first CPU checks [`FINISHED`] before it gives up.
const MOST_CHECKS: u32 = 50_000_000;

/// The parameters of the other CPUs.
static SEED: AtomicU32 = AtomicU32::new(0);
static STEPS: AtomicU32 = AtomicU32::new(0);
static RAM_MIB: AtomicU32 = AtomicU32::new(0);

/// Entry point of Rust code on the first CPU; `fdt` is the address of the device tree.
#[unsafe(no_mangle)]
extern "C" fn first_cpu(fdt: u64) -> ! {
    let arguments = BootArgs::find(fdt);
    SEED.store(arguments.seed, Ordering::Relaxed);
    STEPS.store(arguments.steps, Ordering::Relaxed);
    RAM_MIB.store(arguments.ram_mib, Ordering::Release);
    board::print("HOSTILE-START\n");
    let mut others = 0;
    for cpu in 1..arguments.cpus.min(boot::MAX_CPUS) {
        if boot::start_cpu(cpu) {
            others += 1;
        }
    }
    attack(0);
    for _ in 0..MOST_CHECKS {
        if FINISHED.load(Ordering::Acquire) == others {
            break;
        }
    }
    board::reset_uart();
    board::print("\nHOSTILE-DONE\n");
    if arguments.end_undecodable {
        board::undecodable_access();
    }
    if arguments.end_el2 {
        walls::report(arguments.its);
        walls::access_el2();
        board::print("HOSTILE-EL2\n");
    }
    boot::power_off()
}

/// Entry point of Rust code on every other CPU.
#[unsafe(no_mangle)]
extern "C" fn other_cpu(cpu: u32) -> ! {
    attack(cpu);
    FINISHED.fetch_add(1, Ordering::Release);
    boot::stop_cpu()
}

/// Handles exceptions that are not refused accesses: they are fatal.
#[unsafe(no_mangle)]
extern "C" fn fatal_exception() -> ! {
    board::reset_uart();
    board::print("\nHOSTILE-EXCEPTION\n");
    boot::power_off()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    board::reset_uart();
    board::print("\nHOSTILE-PANIC\n");
    boot::power_off()
}

fn attack(cpu: u32) {
    let mut random = Random::new(SEED.load(Ordering::Relaxed), cpu);
    let ram_mib = RAM_MIB.load(Ordering::Acquire);
    let mut drivers = driver::Drivers::new(cpu, ram_mib);
    for _ in 0..STEPS.load(Ordering::Relaxed) {
        match random.below(100) {
            0..45 => board::poke_virtio(&mut random),
            45..53 => board::poke_uart_or_clock(&mut random),
            53..58 => board::poke_gic(&mut random),
            58..66 => board::poke_hole(&mut random),
            66..68 => boot::strange_psci_call(&mut random),
            68..73 => board::notify_storm(&mut random),
            _ => drivers.attack(&mut random),
        }
    }
}
