//! Random bytes from the host kernel, for guests (such as the entropy device and the VM generation id) and for the
//! monitor's own ids.

use std::io;

/// Fills `buffer` from the kernel's random number generator. Never blocks.
///
/// # Errors
/// The error of `getrandom`: `EAGAIN` while the host has no entropy yet (early in its boot), `ENOSYS` when a
/// seccomp filter does not allow the call.
pub fn fill(buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: a slice is valid for writes over its whole length.
    unsafe { fill_raw(buffer.as_mut_ptr(), buffer.len()) }
}

/// Like [`fill`], for memory to which others, such as a guest, may write at the same time.
///
/// # Errors
/// Those of [`fill`].
///
/// # Safety
/// `length` bytes from `pointer` on are mapped writable, and no Rust reference to them exists.
pub unsafe fn fill_raw(pointer: *mut u8, length: usize) -> io::Result<()> {
    let mut done = 0;
    while done < length {
        // SAFETY: `done < length`, so the rest lies inside the caller's range.
        let got = unsafe { libc::getrandom(pointer.add(done).cast(), length - done, libc::GRND_NONBLOCK) };
        match usize::try_from(got) {
            Ok(got) => done += got,
            // A signal interrupts requests of more than 256 bytes.
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_differ_from_call_to_call_over_their_whole_length() {
        let (mut first, mut second) = ([0; 4096], [0; 4096]);
        fill(&mut first).unwrap();
        fill(&mut second).unwrap();
        for (a, b) in first.chunks(16).zip(second.chunks(16)) {
            assert_ne!(a, b);
            assert_ne!(a, [0; 16]);
        }
        fill(&mut []).unwrap();
    }
}
