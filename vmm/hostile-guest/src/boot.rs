//! The code from the first instruction up to Rust, and PSCI calls.
//!
//! Memory is mapped one to one in blocks of 1 GiB: the first GiB of guest memory normal and cacheable, as a kernel maps
//! it, everything else as device memory. The table is a constant, so nothing is written before the MMU is on.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use crate::random::Random;

/// Maximum number of CPUs that take part.
pub(crate) const MAX_CPUS: u32 = 16;
const STACK: usize = 16 * 1024;

#[repr(C, align(4096))]
struct PageTable([u64; 512]);

/// A valid block descriptor with the access flag, inner shareable.
const BLOCK: u64 = 1 | 1 << 10 | 3 << 8;
/// Selects attribute 1 of MAIR_EL1: normal memory.
const NORMAL: u64 = 1 << 2;
/// The block must not be executed.
const EXECUTE_NEVER: u64 = 3 << 53;

#[unsafe(no_mangle)]
static PAGE_TABLE: PageTable = PageTable(page_table());

const fn page_table() -> [u64; 512] {
    let mut table = [0; 512];
    let mut gib = 0;
    while gib < 512 {
        let kind = if gib == 2 { NORMAL } else { EXECUTE_NEVER };
        table[gib] = (gib as u64) << 30 | BLOCK | kind;
        gib += 1;
    }
    table
}

#[repr(C, align(16))]
struct Stacks(UnsafeCell<[[u8; STACK]; MAX_CPUS as usize]>);

// SAFETY: only the code below uses it, and each CPU uses its own part.
unsafe impl Sync for Stacks {}

#[unsafe(no_mangle)]
static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK]; MAX_CPUS as usize]));

global_asm!(
    r#"
    .section .head, "ax"
    .global image_start
image_start:
    b       1f                      // the header of an arm64 Image (Documentation/arch/arm64/booting.rst)
    .long   0
    .quad   0                       // text_offset
    .quad   image_end - image_start // image_size
    .quad   0x2                     // flags: little-endian, 4 KiB pages, at the start of memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0
1:  mov     x19, x0
    mov     x20, xzr
    b       2f
    .global other_cpu_start
other_cpu_start:
    mov     x20, x0
2:  adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el1, x0
    mov     x0, #0xff00             // attribute 0: device-nGnRnE, 1: normal, write-back
    msr     mair_el1, x0
    ldr     x0, =0x100803519        // 39 bits of addresses, 4 KiB pages, cacheable walks, no TTBR1, 36 bits out
    msr     tcr_el1, x0
    adrp    x0, PAGE_TABLE
    msr     ttbr0_el1, x0
    mov     x0, #(3 << 20)          // floating point, which the compiler may use
    msr     cpacr_el1, x0
    dsb     sy
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    ldr     x0, =0x30d01805         // MMU and caches on
    msr     sctlr_el1, x0
    isb
    adrp    x0, STACKS
    add     x0, x0, :lo12:STACKS
    add     x1, x20, #1
    mov     x2, #{stack}
    madd    x0, x1, x2, x0
    mov     sp, x0
    cbnz    x20, 3f
    mov     x0, x19
    bl      first_cpu
3:  mov     x0, x20
    bl      other_cpu

    .macro  vector target
    .balign 0x80
    b       \target
    .endm
    .balign 0x800
vectors:
    .rept   4
    vector  synchronous
    vector  ignore
    vector  ignore
    vector  ignore
    .endr
synchronous:                        // skips an access that was refused; anything else is fatal
    stp     x0, x1, [sp, #-16]!
    mrs     x0, esr_el1
    lsr     x0, x0, #26
    cmp     x0, #0x25
    b.ne    4f
    mrs     x0, elr_el1
    add     x0, x0, #4
    msr     elr_el1, x0
    ldp     x0, x1, [sp], #16
ignore:
    eret
4:  bl      fatal_exception
    .ltorg
    .text
    "#,
    stack = const STACK,
);

unsafe extern "C" {
    fn other_cpu_start();
}

/// Numbers of PSCI functions (Arm DEN0022).
const CPU_OFF: u64 = 0x8400_0002;
const CPU_SUSPEND: [u64; 2] = [0x8400_0001, 0xc400_0001];
const CPU_ON: u64 = 0xc400_0003;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESETS: [u64; 3] = [0x8400_0009, 0x8400_0012, 0xc400_0012];
const SYSTEM_SUSPEND: [u64; 2] = [0x8400_000e, 0xc400_000e];

fn psci(function: u64, arguments: [u64; 3]) -> u64 {
    let result;
    // SAFETY: the hypervisor follows the calling convention; the functions' effects on the machine do not touch this
    // CPU's memory.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") function => result,
            inout("x1") arguments[0] => _,
            inout("x2") arguments[1] => _,
            inout("x3") arguments[2] => _,
            clobber_abi("C"),
        );
    }
    result
}

/// Starts another CPU; returns whether that worked.
pub(crate) fn start_cpu(cpu: u32) -> bool {
    psci(CPU_ON, [u64::from(cpu), other_cpu_start as *const () as u64, u64::from(cpu)]) == 0
}

/// Stops this CPU.
pub(crate) fn stop_cpu() -> ! {
    psci(CPU_OFF, [0; 3]);
    halt()
}

/// Powers the machine off.
pub(crate) fn power_off() -> ! {
    psci(SYSTEM_OFF, [0; 3]);
    halt()
}

fn halt() -> ! {
    loop {
        // SAFETY: does nothing but wait.
        unsafe { asm!("wfi") };
    }
}

/// Makes an unusual PSCI call, but none that stops this CPU or the machine.
pub(crate) fn strange_psci_call(random: &mut Random) {
    let bases = [0x8400_0000, 0xc400_0000, 0x8000_0000, 0x8600_0000, 0x9500_0000, 0xbf00_0000];
    let function = if random.one_in(4) { random.next() } else { random.choose(bases) + random.below(0x40) };
    // For 32-bit calls the upper half of the register is ignored.
    let number = function & 0xffff_ffff;
    let ends = [CPU_OFF, SYSTEM_OFF].contains(&number);
    let waits = CPU_SUSPEND.contains(&number) || SYSTEM_SUSPEND.contains(&number);
    // A CPU that is started here would use the stack of another CPU, so only CPUs that do not exist are started.
    let starts = [CPU_ON, CPU_ON & 0xbfff_ffff].contains(&number);
    if ends || waits || SYSTEM_RESETS.contains(&number) {
        return;
    }
    let target = if starts { 0x100 + random.below(1 << 24) } else { random.number() };
    psci(function, [target, random.number(), random.number()]);
}
