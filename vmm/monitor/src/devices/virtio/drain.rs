//! Serves a queue without letting its driver occupy the device thread for ever.
//!
//! A driver on another vCPU can add chains as fast as the device takes them. So a device takes at most one queue
//! length of chains (plus one) at a time and then wakes itself through a [`Wakeup`], after other waiting events.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

use super::DeviceError;
use super::queue::{Chain, VirtQueue};
use crate::event_loop::borrow;

/// A descriptor to register with a device's own poller: once signalled, the device receives an event.
#[derive(Debug)]
pub struct Wakeup(EventFd);

impl Wakeup {
    /// Makes a wake-up that is not signalled.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Self)
    }

    /// Makes the event loop call the device's event handler soon.
    pub fn signal(&self) {
        let _ = self.0.write(1); // fails only when it is signalled already
    }

    /// Resets the signal.
    pub fn clear(&self) {
        let _ = self.0.read(); // fails only when it is not signalled
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.0)
    }
}

/// Pops each chain of `queue` into `chain`, calls `serve`, which returns the number of bytes that it wrote, and
/// returns the chain to the driver. After at most one queue length of chains (plus one), signals `more` and stops.
/// Raises the interrupt once.
///
/// # Errors
/// When the queue is broken, or the error that `serve` returns.
pub fn drain(
    queue: &mut VirtQueue,
    chain: &mut Chain,
    more: &Wakeup,
    mut serve: impl FnMut(&Chain) -> Result<u32, DeviceError>,
) -> Result<(), DeviceError> {
    for _ in 0..=queue.size() {
        if queue.pop(chain)? {
            let written = serve(chain)?;
            queue.push_used(chain.head(), written)?;
        } else if !queue.enable_notification()? {
            return Ok(queue.notify()?);
        }
    }
    more.signal();
    Ok(queue.notify()?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Buffer, DriverQueue, test_memory};
    use super::*;
    use crate::event_loop::{EventLoop, Interest};
    use crate::memory::DRAM_BASE;

    const SIZE: u16 = 8;

    fn signalled(more: &Wakeup) -> bool {
        let mut events = EventLoop::new().unwrap();
        events.poller(0).add(more, 0, Interest::READ).unwrap();
        events.wait(0, |_| {}).unwrap() == 1
    }

    #[test]
    fn a_driver_that_always_has_more_does_not_keep_the_device() {
        let memory = test_memory(1 << 20);
        let mut driver = DriverQueue::new(&memory, DRAM_BASE, SIZE);
        let (mut queue, mut chain) = (driver.device_end(), Chain::new());
        let more = Wakeup::new().unwrap();
        let buffer = [Buffer::Write(DRAM_BASE + 0x8000, 1)];
        driver.add(&buffer);
        let mut served = 0;
        drain(&mut queue, &mut chain, &more, |_| {
            driver.add(&buffer);
            served += 1;
            Ok(1)
        })
        .unwrap();
        assert!((SIZE..=SIZE + 1).contains(&served), "{served}");
        assert!(signalled(&more));
        more.clear();
        drain(&mut queue, &mut chain, &more, |_| Ok(1)).unwrap();
        assert!(!signalled(&more), "the last one was served");
        assert_eq!(std::iter::from_fn(|| driver.used()).count(), usize::from(served) + 1);
    }
}
