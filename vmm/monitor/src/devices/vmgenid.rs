//! The VM generation id: 128 random bits that change whenever a microVM is restored from a snapshot, from which other
//! microVMs may have been restored too.
//!
//! The guest's driver maps the page and receives an interrupt when the id has changed; it then reseeds its random
//! number generator (Linux Documentation/devicetree/bindings/rng/microsoft,vmgenid.yaml). The driver maps the page as
//! device memory, so the page lies outside the guest's memory, in a mapping of its own that becomes a KVM memory slot.

use std::io;
use std::ptr::NonNull;

use vmm_sys_util::eventfd::EventFd;

use super::random;

/// Length of an id in bytes.
pub const ID_LEN: usize = 16;

/// The VM generation id: a page of memory with the id at its beginning.
#[derive(Debug)]
pub struct VmGenId {
    page: NonNull<u8>,
    size: usize,
    id: [u8; ID_LEN],
    interrupt: EventFd,
}

// SAFETY: the page is this value's own mapping; on the host's side only `&mut self` writes to it, and the host never
// reads what the guest writes to it at the same time.
unsafe impl Send for VmGenId {}
// SAFETY: as above.
unsafe impl Sync for VmGenId {}

impl VmGenId {
    /// Makes a page with a fresh id. The caller registers `interrupt` as an irqfd.
    ///
    /// # Errors
    /// When the host has no memory or no random bytes.
    pub fn new(interrupt: EventFd) -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let size = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address that the kernel chooses; no existing mapping is replaced.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page =
            NonNull::new(page.cast()).ok_or_else(|| io::Error::other("the kernel mapped page zero"))?;
        let mut vmgenid = Self { page, size, id: [0; ID_LEN], interrupt };
        vmgenid.regenerate()?;
        Ok(vmgenid)
    }

    /// The current id. The guest's writes to the page do not change it.
    #[must_use]
    pub fn id(&self) -> [u8; ID_LEN] {
        self.id
    }

    /// Address of the page in this process, for a memory slot. The guest only needs to read the page.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.page.as_ptr() as u64
    }

    /// Size of the page in bytes: one page of the host.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// Writes a fresh id into the page and returns it. [`Self::notify`] notifies the guest. No vCPU
    /// may run in between, because it could use random numbers that belong to the old id.
    ///
    /// # Errors
    /// When the host has no random bytes; the page then keeps its id.
    pub fn regenerate(&mut self) -> io::Result<[u8; ID_LEN]> {
        let mut id = [0; ID_LEN];
        random::fill(&mut id)?;
        self.id = id;
        for (offset, byte) in id.into_iter().enumerate() {
            // SAFETY: an id is shorter than a page, and the page is mapped writable. The write is volatile because
            // the guest reads it without the compiler's knowledge.
            unsafe { self.page.as_ptr().add(offset).write_volatile(byte) };
        }
        Ok(id)
    }

    /// Interrupts the guest, to notify it that its id has changed.
    pub fn notify(&self) {
        let _ = self.interrupt.write(1); // fails only when it is raised already
    }
}

impl Drop for VmGenId {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the machine that used it as a memory slot is gone.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(vmgenid: &VmGenId) -> Vec<u8> {
        // SAFETY: the page is mapped, and nothing writes to it meanwhile.
        unsafe { std::slice::from_raw_parts(vmgenid.host_address() as *const u8, vmgenid.size() as usize) }
            .to_vec()
    }

    #[test]
    fn the_page_holds_the_id_and_nothing_else() {
        let vmgenid = VmGenId::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()).unwrap();
        assert!(vmgenid.host_address().is_multiple_of(vmgenid.size()));
        let page = page(&vmgenid);
        assert_eq!(page[..ID_LEN], vmgenid.id());
        assert!(page[ID_LEN..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn ids_are_all_different_and_the_guest_is_told() {
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let mut vmgenid = VmGenId::new(line.try_clone().unwrap()).unwrap();
        let mut seen = std::collections::HashSet::from([[0; ID_LEN], vmgenid.id()]);
        for _ in 0..100 {
            let id = vmgenid.regenerate().unwrap();
            assert!(seen.insert(id), "an id came twice");
            assert_eq!((page(&vmgenid)[..ID_LEN].to_vec(), vmgenid.id()), (id.to_vec(), id));
        }
        assert!(line.read().is_err(), "interrupts come when asked for");
        vmgenid.notify();
        assert_eq!(line.read().unwrap(), 1);
    }
}
