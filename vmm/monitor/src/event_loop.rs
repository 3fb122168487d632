//! The device thread's event loop: one epoll instance, which is level-triggered unless a caller chooses otherwise and
//! does not allocate once it runs.
//!
//! A device registers its backend descriptors through a [`Poller`] of its own; the loop hands each event
//! back as ([`DeviceId`], token). Tokens from [`QUEUE_TOKEN`] up are queue notifications and belong to the
//! virtio-mmio transport; lower ones are the device's own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
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
pub struct Interest(EventSet);

impl Interest {
    /// Nothing but errors and hang-up.
    pub const NONE: Self = Self(EventSet::empty());
    /// Readable, or the peer closed its half.
    pub const READ: Self = Self(EventSet::IN.union(EventSet::READ_HANG_UP));
    /// Writable.
    pub const WRITE: Self = Self(EventSet::OUT);
    /// Both directions.
    pub const BOTH: Self = Self(Self::READ.0.union(Self::WRITE.0));
    /// Like [`Self::READ`], but edge-triggered: reported once per change, not for as long as the state lasts.
    pub const READ_EDGE: Self = Self(Self::READ.0.union(EventSet::EDGE_TRIGGERED));
    /// Like [`Self::BOTH`], but edge-triggered.
    pub const BOTH_EDGE: Self = Self(Self::BOTH.0.union(EventSet::EDGE_TRIGGERED));
}

/// Registers descriptors of one device with the loop. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Poller {
    epoll: Arc<Epoll>,
    device: DeviceId,
}

impl Poller {
    fn control(
        &self,
        operation: ControlOperation,
        fd: &impl AsFd,
        token: u16,
        interest: Interest,
    ) -> io::Result<()> {
        let data = u64::from(self.device) << 16 | u64::from(token);
        self.epoll.ctl(operation, fd.as_fd().as_raw_fd(), EpollEvent::new(interest.0, data))
    }

    /// Starts watching `fd`; its events are reported with `token`.
    ///
    /// # Errors
    /// The error that `epoll_ctl` returns.
    pub fn add(&self, fd: &impl AsFd, token: u16, interest: Interest) -> io::Result<()> {
        self.control(ControlOperation::Add, fd, token, interest)
    }

    /// Changes the events that are watched on `fd`.
    ///
    /// # Errors
    /// The error that `epoll_ctl` returns.
    pub fn modify(&self, fd: &impl AsFd, token: u16, interest: Interest) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd, token, interest)
    }

    /// Stops watching `fd`.
    ///
    /// # Errors
    /// The error that `epoll_ctl` returns.
    pub fn remove(&self, fd: &impl AsFd) -> io::Result<()> {
        self.control(ControlOperation::Delete, fd, 0, Interest::NONE)
    }
}

/// The event loop, owned by the device thread.
#[derive(Debug)]
pub struct EventLoop {
    epoll: Arc<Epoll>,
    events: Vec<EpollEvent>,
}

impl EventLoop {
    /// Makes an empty loop.
    ///
    /// # Errors
    /// The error that `epoll_create1` returns.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Arc::new(Epoll::new()?), events: vec![EpollEvent::default(); BATCH] })
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
        let count = match self.epoll.wait(timeout_ms, &mut self.events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(0),
            count => count?,
        };
        for event in self.events.iter().take(count) {
            let [.., d1, d0, t1, t0] = event.data().to_be_bytes();
            handle(Ready {
                device: u16::from_be_bytes([d1, d0]),
                token: u16::from_be_bytes([t1, t0]),
                events: event.events(),
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
