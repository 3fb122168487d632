//! The kernel's side of block I/O: one io_uring per device, restricted to the operations that a disk needs.
//!
//! seccomp does not see io_uring operations, so the ring itself is restricted before it is enabled: reads,
//! writes, syncs and `fallocate`, on the registered files only, and no further registration. All of that is
//! set up when the device is made; afterwards only `io_uring_enter` is called.
//!
//! Completions are signalled through an eventfd, but not while the ring is being processed: an operation that
//! completes during submission, such as a read from the page cache, costs no extra wake-up.
//!
//! The kernel runs completions in the thread that submitted the operations, and cancels those of a thread that
//! terminates; such operations complete with `ECANCELED` and are tried again.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, RawFd};
use std::sync::atomic::{Ordering, fence};

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode};
use vmm_sys_util::eventfd::EventFd;

/// Largest number of operations in progress at a time, submitted or not.
pub(super) const MAX_OPERATIONS: u32 = 256;

/// An io_uring and its eventfd.
pub(super) struct Engine {
    ring: IoUring,
    event: File,
    in_flight: u32,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Engine {
    /// Makes a ring that may operate on `files`, named by their index, and on nothing else.
    pub(super) fn new(files: &[File]) -> io::Result<Self> {
        let ring = IoUring::builder().setup_r_disabled().setup_submit_all().build(MAX_OPERATIONS)?;
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        // SAFETY: the descriptor's only owner has just given it up.
        let event = unsafe { File::from_raw_fd(event.into_raw_fd()) };
        let submitter = ring.submitter();
        let files: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
        submitter.register_files(&files)?;
        submitter.register_eventfd(event.as_raw_fd())?;
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_op(opcode::Fallocate::CODE),
            Restriction::sqe_flags_allowed((Flags::FIXED_FILE | Flags::ASYNC).bits()),
            Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
        ])?;
        submitter.register_enable_rings()?;
        Ok(Self { ring, event, in_flight: 0 })
    }

    /// The eventfd, which becomes readable when an operation completes or [`Self::wake`] is called.
    pub(super) fn event(&self) -> &File {
        &self.event
    }

    /// Makes the event unreadable again.
    pub(super) fn drain_event(&self) {
        let _ = (&self.event).read(&mut [0; 8]); // fails after a spurious wake-up
    }

    /// Makes the event readable, so that the device thread serves this device again.
    pub(super) fn wake(&self) {
        let _ = (&self.event).write(&1u64.to_ne_bytes()); // fails only when it is readable already
    }

    /// Number of operations that have not completed yet.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether operations are queued, but the kernel has none whose completion would wake the device thread.
    pub(super) fn is_stuck(&mut self) -> bool {
        let queued = self.ring.submission().len();
        queued > 0 && queued == self.in_flight as usize
    }

    /// Queues an operation; [`Self::pop`] returns it with `tag` when it has completed. The result is `false` when
    /// [`MAX_OPERATIONS`] are in progress.
    ///
    /// # Safety
    /// The memory to which `entry` points must stay valid until the operation has completed.
    pub(super) unsafe fn push(&mut self, entry: Entry, tag: u64) -> bool {
        if self.in_flight >= MAX_OPERATIONS {
            return false;
        }
        // SAFETY: the caller keeps the memory alive to which the entry points.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(tag)) }.is_ok();
        self.in_flight += u32::from(pushed);
        pushed
    }

    /// Submits all queued operations to the kernel. Returns `false` when the kernel cannot take all of them now.
    pub(super) fn submit(&mut self) -> io::Result<bool> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY) => return Ok(false),
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }

    /// Submits the queued operations and waits until one has completed. A signal or a lack of resources
    /// stops the wait early.
    pub(super) fn wait(&self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next completed operation: its tag, and its result or the negative error number.
    pub(super) fn pop(&mut self) -> Option<(u64, i32)> {
        let completion = self.ring.completion().next()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some((completion.user_data(), completion.result()))
    }

    /// Disables events for completions: the caller polls for them.
    pub(super) fn mute(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// Enables events for completions. Returns `true` when there are completions that caused no event.
    pub(super) fn unmute(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // The kernel publishes a completion, then reads the flag, with a full barrier in between. This side does the
        // same in its order: it writes the flag, then reads the completions.
        fence(Ordering::SeqCst);
        !self.ring.completion().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use io_uring::types::{Fd, Fixed};

    use super::*;

    fn result(engine: &mut Engine, entry: Entry) -> i32 {
        // SAFETY: the entries of these tests contain no pointer, or one to a buffer that outlives the wait below.
        assert!(unsafe { engine.push(entry, 7) });
        assert!(engine.submit().unwrap());
        engine.wait().unwrap();
        let (tag, result) = engine.pop().unwrap();
        assert_eq!((tag, engine.in_flight()), (7, 0));
        result
    }

    #[test]
    fn the_ring_does_what_a_disk_needs_and_nothing_else() {
        let file = tempfile::tempfile().unwrap();
        let mut engine = Engine::new(&[file.try_clone().unwrap()]).unwrap();
        let mut data = *b"sector";
        let iovec = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        assert_eq!(result(&mut engine, opcode::Writev::new(Fixed(0), &raw const iovec, 1).build()), 6);
        assert_eq!(result(&mut engine, opcode::Fsync::new(Fixed(0)).build()), 0);
        let fallocate = opcode::Fallocate::new(Fixed(0), 100).mode(libc::FALLOC_FL_KEEP_SIZE);
        assert_eq!(result(&mut engine, fallocate.build()), 0);
        let refused = [
            opcode::Readv::new(Fd(file.as_raw_fd()), &raw const iovec, 1).build(),
            opcode::Nop::new().build().flags(Flags::FIXED_FILE),
            opcode::Fsync::new(Fixed(0)).build().flags(Flags::IO_DRAIN),
            opcode::Close::new(Fd(file.as_raw_fd())).build(),
        ];
        for entry in refused {
            assert_eq!(result(&mut engine, entry), -libc::EACCES);
        }
        let error = engine.ring.submitter().register_files_update(0, &[file.as_raw_fd()]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        let error = engine.ring.submitter().register_personality().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        assert_eq!(result(&mut engine, opcode::Fsync::new(Fixed(1)).build()), -libc::EBADF);
    }

    #[test]
    fn a_muted_completion_is_found_when_the_ring_is_unmuted() {
        let mut engine = Engine::new(&[tempfile::tempfile().unwrap()]).unwrap();
        engine.mute();
        // SAFETY: a sync contains no pointer.
        assert!(unsafe { engine.push(opcode::Fsync::new(Fixed(0)).build(), 1) });
        engine.wait().unwrap();
        assert!((&engine.event).read(&mut [0; 8]).is_err(), "no event while muted");
        assert!(engine.unmute());
        assert_eq!(engine.pop(), Some((1, 0)));
        engine.wake();
        assert_eq!((&engine.event).read(&mut [0; 8]).unwrap(), 8);
    }
}
