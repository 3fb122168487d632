//! The system call.

use core::arch::asm;

/// `EINTR` as the kernel returns it.
const INTERRUPTED: isize = -4;
/// Most bytes that one call gives (getrandom(2)).
const MOST: usize = 33_554_431;

/// Fills the buffer with the kernel's random numbers. Waits for entropy where the kernel has none yet, which is only while it boots.
/// Returns false if the kernel refuses; what is in the buffer then is of no use.
pub(crate) fn fill(mut buffer: &mut [u8]) -> bool {
    while !buffer.is_empty() {
        let length = buffer.len().min(MOST);
        let given = getrandom(buffer.as_mut_ptr(), length);
        if given == INTERRUPTED {
            continue;
        }
        let Ok(given @ 1..) = usize::try_from(given) else { return false };
        let Some(rest) = buffer.get_mut(given..) else { return false };
        buffer = rest;
    }
    true
}

#[cfg(target_arch = "aarch64")]
fn getrandom(buffer: *mut u8, length: usize) -> isize {
    let result;
    // SAFETY: the kernel writes at most `length` bytes to the buffer, and changes no other register.
    unsafe {
        asm!(
            "svc 0",
            in("x8") 278,
            inlateout("x0") buffer => result,
            in("x1") length,
            in("x2") 0,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "x86_64")]
fn getrandom(buffer: *mut u8, length: usize) -> isize {
    let result;
    // SAFETY: the kernel writes at most `length` bytes to the buffer, and changes no registers but those named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") 318_isize => result,
            in("rdi") buffer,
            in("rsi") length,
            in("rdx") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Ends the process.
pub(crate) fn abort() -> ! {
    // SAFETY: an undefined instruction, at which the kernel ends the process.
    unsafe {
        #[cfg(target_arch = "aarch64")]
        asm!("udf #0", options(noreturn));
        #[cfg(target_arch = "x86_64")]
        asm!("ud2", options(noreturn));
    }
}
