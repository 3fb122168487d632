//! Working a queue off without letting its driver keep the device thread for ever.
//!
//! A driver on another vCPU can add chains as fast as the device takes them. So a device takes at most a
//! queue's worth at a time and then wakes itself through a [`Wakeup`], after everything else that waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

use super::DeviceError;
use super::queue::{Chain, VirtQueue};
use crate::event_loop::borrow;

/// A descriptor to register with a device's own poller: once signalled, the device gets its event.
#[derive(Debug)]
pub struct Wakeup(EventFd);

impl Wakeup {
    /// One that is quiet.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Self)
    }

    /// Has the device's event called soon.
    pub fn signal(&self) {
        let _ = self.0.write(1); // full only when it is signalled already
    }

    /// Quiet again.
    pub fn clear(&self) {
        let _ = self.0.read(); // empty only when it is quiet already
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.0)
    }
}

/// Pops what `queue` holds into `chain`, has `serve` answer each chain – with the bytes it wrote – and gives
/// it back; at most a queue's worth, then `more` is signalled. Interrupts once.
///
/// # Errors
/// A broken queue, or what `serve` answers.
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
