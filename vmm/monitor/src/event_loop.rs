//! The device thread's event loop: one epoll instance, which is level-triggered unless a caller chooses otherwise and
//! does not allocate once it runs.
//!
//! A device registers its backend descriptors through a [`Poller`] of its own; the loop hands each event
//! back as ([`DeviceId`], token). Tokens from [`QUEUE_TOKEN`] up are queue notifications and belong to the
//! virtio-mmio transport; lower ones are the device's own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// Borrows an eventfd, which does not implement `AsFd` itself.
#[must_use]
pub fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor belongs to `event`, which the borrow keeps alive.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Index of a device in the order in which the board holds them.
pub type DeviceId = u16;

/// First token that stands for a queue: queue `i` is `QUEUE_TOKEN + i`.
pub const QUEUE_TOKEN: u16 = 0x8000;

/// Events handled in one `epoll_wait`.
const BATCH: usize = 64;

/// An event that became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The device that registered the descriptor.
    pub device: DeviceId,
    /// The token under which the device registered the descriptor.
    pub token: u16,
    /// The epoll events (`EPOLLIN`, `EPOLLHUP` …).
    pub events: u32,
}

/// What a device waits for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest(u32);

impl Interest {
    /// Nothing but errors and hang-up.
    pub const NONE: Self = Self(0);
    /// Readable, or the peer closed its half.
    pub const READ: Self = Self(libc::EPOLLIN as u32 | libc::EPOLLRDHUP as u32);
    /// Writable.
    pub const WRITE: Self = Self(libc::EPOLLOUT as u32);
    /// Both directions.
    pub const BOTH: Self = Self(Self::READ.0 | Self::WRITE.0);
    /// Like [`Self::READ`], but edge-triggered: reported once per change, not for as long as the state lasts.
    pub const READ_EDGE: Self = Self(Self::READ.0 | libc::EPOLLET.cast_unsigned());
    /// Like [`Self::BOTH`], but edge-triggered.
    pub const BOTH_EDGE: Self = Self(Self::BOTH.0 | libc::EPOLLET.cast_unsigned());
}

#[derive(Debug)]
struct Epoll(OwnedFd);

impl Epoll {
    fn control(&self, operation: libc::c_int, fd: RawFd, interest: Interest, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.0, u64: data };
        // SAFETY: both descriptors are numbers that the kernel checks, and `event` lives across the call.
        let result = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Registers descriptors of one device with the loop. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Poller {
    epoll: Arc<Epoll>,
    device: DeviceId,
}

impl Poller {
    fn data(&self, token: u16) -> u64 {
        u64::from(self.device) << 16 | u64::from(token)
    }

    /// Starts watching `fd`; its events are reported with `token`.
    ///
    /// # Errors
    /// The error that `epoll_ctl` returns.
    pub fn add(&self, fd: &impl AsFd, token: u16, interest: Interest) -> io::Result<()> {
        self.epoll.control(libc::EPOLL_CTL_ADD, fd.as_fd().as_raw_fd(), interest, self.data(token))
    }

    /// Changes the events that are watched on `fd`.
    ///
    /// # Errors
    /// The error that `epoll_ctl` returns.
    pub fn modify(&self, fd: &impl AsFd, token: u16, interest: Interest) -> io::Result<()> {
        self.epoll.control(libc::EPOLL_CTL_MOD, fd.as_fd().as_raw_fd(), interest, self.data(token))
    }

    /// Stops watching `fd`.
    ///
    /// # Errors
    /// The error that `epoll_ctl` returns.
    pub fn remove(&self, fd: &impl AsFd) -> io::Result<()> {
        self.epoll.control(libc::EPOLL_CTL_DEL, fd.as_fd().as_raw_fd(), Interest::NONE, 0)
    }
}

/// The event loop, owned by the device thread.
#[derive(Debug)]
pub struct EventLoop {
    epoll: Arc<Epoll>,
    events: Vec<libc::epoll_event>,
}

impl EventLoop {
    /// Makes an empty loop.
    ///
    /// # Errors
    /// The error that `epoll_create1` returns.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        let epoll = Arc::new(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }));
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; BATCH] })
    }

    /// The registration handle of device `device`.
    #[must_use]
    pub fn poller(&self, device: DeviceId) -> Poller {
        Poller { epoll: Arc::clone(&self.epoll), device }
    }

    /// Waits for events, at most `timeout_ms` milliseconds (`-1`: without a limit), and passes each to `handle`.
    /// Returns the number of events, which is 0 when a signal interrupted the wait.
    ///
    /// # Errors
    /// The error that `epoll_wait` returns, except `EINTR`.
    pub fn wait(&mut self, timeout_ms: i32, mut handle: impl FnMut(Ready)) -> io::Result<usize> {
        let capacity = libc::c_int::try_from(self.events.len()).unwrap_or(libc::c_int::MAX);
        let fd = self.epoll.0.as_raw_fd();
        // SAFETY: `events` has room for `capacity` entries and is not touched during the call.
        let count = unsafe { libc::epoll_wait(fd, self.events.as_mut_ptr(), capacity, timeout_ms) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) };
        };
        for event in self.events.iter().take(count) {
            let data = event.u64;
            let [.., d1, d0, t1, t0] = data.to_be_bytes();
            handle(Ready {
                device: u16::from_be_bytes([d1, d0]),
                token: u16::from_be_bytes([t1, t0]),
                events: event.events,
            });
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_its_device_and_token() {
        let mut events = EventLoop::new().unwrap();
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        events.poller(7).add(&borrow(&event), QUEUE_TOKEN + 2, Interest::READ).unwrap();
        assert_eq!(events.wait(0, |_| panic!("nothing is ready yet")).unwrap(), 0);
        event.write(1).unwrap();
        let mut seen = Vec::new();
        events.wait(-1, |ready| seen.push((ready.device, ready.token))).unwrap();
        assert_eq!(seen, [(7, QUEUE_TOKEN + 2)]);
        events.poller(7).remove(&borrow(&event)).unwrap();
        assert_eq!(events.wait(0, |_| panic!("no longer watched")).unwrap(), 0);
    }
}
