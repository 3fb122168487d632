//! The VM generation id: 128 random bits that change whenever a microVM is one of several that share a past.
//!
//! The guest's driver maps the page and is interrupted when the id has changed; it then reseeds its random
//! numbers (Linux Documentation/devicetree/bindings/rng/microsoft,vmgenid.yaml). The driver maps it as device
//! memory, so the page lies outside the guest's memory, in a mapping of its own that the board gives to KVM.

use std::io;
use std::ptr::NonNull;

use vmm_sys_util::eventfd::EventFd;

use super::random;

/// Bytes of an id.
pub const ID_LEN: usize = 16;

/// The page and the id at its beginning.
#[derive(Debug)]
pub struct VmGenId {
    page: NonNull<u8>,
    size: usize,
    id: [u8; ID_LEN],
    interrupt: EventFd,
}

// SAFETY: the page is this value's own mapping; only `&mut self` writes to it from here, and what the guest
// does to it at the same time is read by nobody.
unsafe impl Send for VmGenId {}
// SAFETY: as above.
unsafe impl Sync for VmGenId {}

impl VmGenId {
    /// A page with a fresh id. `interrupt` becomes an irqfd.
    ///
    /// # Errors
    /// When the host has no memory or no random bytes.
    pub fn new(interrupt: EventFd) -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let size = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping wherever the kernel likes; nothing that exists is replaced.
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

    /// The current id. What the guest writes to the page does not change it.
    #[must_use]
    pub fn id(&self) -> [u8; ID_LEN] {
        self.id
    }

    /// Address of the page in this process, for a memory slot; the guest needs it readable only.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.page.as_ptr() as u64
    }

    /// Bytes of the page: one page of the host.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size as u64
    }

    /// Puts a fresh id into the page and returns it. The guest learns of it through [`Self::notify`]; no vCPU
    /// may run in between, or it could use the old id's random numbers.
    ///
    /// # Errors
    /// When the host has no random bytes; the page then keeps its id.
    pub fn regenerate(&mut self) -> io::Result<[u8; ID_LEN]> {
        let mut id = [0; ID_LEN];
        random::fill(&mut id)?;
        self.id = id;
        for (offset, byte) in id.into_iter().enumerate() {
            // SAFETY: an id is shorter than a page, and the page is mapped writable. Volatile, since the guest
            // reads it behind the compiler's back.
            unsafe { self.page.as_ptr().add(offset).write_volatile(byte) };
        }
        Ok(id)
    }

    /// Interrupts the guest: its id has changed.
    pub fn notify(&self) {
        let _ = self.interrupt.write(1); // full only when it is raised already
    }
}

impl Drop for VmGenId {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the machine that had it as a memory slot is gone.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(vmgenid: &VmGenId) -> Vec<u8> {
        // SAFETY: the page is mapped, and nobody writes to it meanwhile.
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
