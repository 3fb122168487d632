//! A virtual machine whose guest touches pages.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::ptr;

use anyhow::{Context as _, Result, bail, ensure};
use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64, kvm_userspace_memory_region, kvm_vcpu_init,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

/// Number of pages that are touched.
pub(crate) const PAGES: u64 = 256;

const PAGE: usize = 4096;
/// Address of the pages, as in guests' memory; then those of the programs, and of the device whose write ends a program.
const MEMORY: u64 = 0x8000_0000;
const CODE: u64 = 0x4000_0000;
const END: u64 = 0x0900_0000;
/// Size of the programs' own memory in bytes: a multiple of any page size.
const CODE_SIZE: usize = 64 << 10;

const RET: u32 = 0xd65f_03c0;
const NOP: u32 = 0xd503_201f;
/// `add x0, x0, x2; subs x1, x1, #1; b.ne` to the access; `str w1, [x3]`, which ends the program
const REST: [u32; 4] = [0x8b02_0000, 0xf100_0421, 0x54ff_ffa1, 0xb900_0061];
/// Words of a program. The first instruction may be skipped, because the previous program's last write may not be completed yet.
const PROGRAM: u64 = 6;

/// The guest's access to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads a word.
    Read,
    /// Calls the instruction in the page, which returns.
    Fetch,
    /// Writes a word.
    Write,
}

impl Access {
    const ALL: [Self; 3] = [Self::Read, Self::Fetch, Self::Write];

    fn instruction(self) -> u32 {
        match self {
            Self::Read => 0xb940_0004,  // ldr w4, [x0]
            Self::Fetch => 0xd63f_0000, // blr x0
            Self::Write => 0xb900_0005, // str w5, [x0]
        }
    }
}

/// Memory of this process.
struct Mapping {
    address: *mut libc::c_void,
    size: usize,
}

impl Mapping {
    /// Maps `size` bytes of a file, or of anonymous memory, privately.
    fn new(file: Option<&File>, size: usize) -> Result<Self> {
        let (flags, descriptor) = match file {
            Some(file) => (libc::MAP_PRIVATE, file.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a new mapping at an address of the kernel's choice; the descriptor, if any, is open.
        let address = unsafe {
            libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, descriptor, 0)
        };
        ensure!(address != libc::MAP_FAILED, "mapping memory: {}", std::io::Error::last_os_error());
        Ok(Self { address, size })
    }

    fn advise(&self, advice: i32) -> Result<()> {
        // SAFETY: the range is this mapping, to whose content there are no references.
        let done = unsafe { libc::madvise(self.address, self.size, advice) };
        ensure!(done == 0, "populating memory: {}", std::io::Error::last_os_error());
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is owned by this value, and the machine that used it was dropped before (`Guest`, order of fields).
        unsafe { libc::munmap(self.address, self.size) };
    }
}

/// A machine with pages that its guest has not touched.
pub(crate) struct Guest {
    // Fields are dropped in this order: the memory last.
    vcpu: VcpuFd,
    _vm: VmFd,
    _memory: Mapping,
    _code: Mapping,
}

impl Guest {
    /// Makes a machine. `populate`: the host's access to the pages before, as advice for `madvise`.
    pub(crate) fn new(populate: Option<i32>) -> Result<Self> {
        let mut file = tempfile::tempfile().context("making a file")?;
        let mut page = [0; PAGE];
        page[..4].copy_from_slice(&RET.to_le_bytes());
        for _ in 0..PAGES {
            file.write_all(&page).context("writing a file")?;
        }
        file.rewind()?;
        let memory = Mapping::new(Some(&file), usize::try_from(PAGES)? * PAGE)?;
        if let Some(advice) = populate {
            memory.advise(advice)?;
        }
        let code = Mapping::new(None, CODE_SIZE)?;
        let words: Vec<u32> = Access::ALL
            .into_iter()
            .flat_map(|access| [NOP, access.instruction()].into_iter().chain(REST))
            .collect();
        // SAFETY: the mapping is larger than the words, writable, aligned to pages, and there are no other references to it.
        unsafe { ptr::copy_nonoverlapping(words.as_ptr(), code.address.cast(), words.len()) };

        let kvm = Kvm::new().context("opening /dev/kvm")?;
        let vm = kvm.create_vm().context("making a virtual machine")?;
        for (slot, address, mapping) in [(0, CODE, &code), (1, MEMORY, &memory)] {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: address,
                memory_size: u64::try_from(mapping.size)?,
                userspace_addr: u64::try_from(mapping.address.addr())?,
            };
            // SAFETY: the range is a mapping that outlives the machine, and is no other region's.
            unsafe { vm.set_user_memory_region(region) }.context("giving the machine memory")?;
        }
        let vcpu = vm.create_vcpu(0).context("making a CPU")?;
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init).context("asking for the CPU's kind")?;
        vcpu.vcpu_init(&init).context("setting the CPU up")?;
        Ok(Self { vcpu, _vm: vm, _memory: memory, _code: code })
    }

    fn set(&self, register: u64, value: u64) -> Result<()> {
        // Offsets are counted in words of 32 bits (Linux, Documentation/virt/kvm/api.rst, 4.68); number 32 is the program counter.
        let id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | (register * 2);
        self.vcpu.set_one_reg(id, &value.to_le_bytes()).context("setting a register")?;
        Ok(())
    }

    /// Touches all pages, one after the other.
    pub(crate) fn touch(&mut self, access: Access) -> Result<()> {
        let index = Access::ALL.iter().position(|other| *other == access).unwrap_or_default();
        let program = CODE + u64::try_from(index)? * PROGRAM * 4;
        for (register, value) in
            [(0, MEMORY), (1, PAGES), (2, u64::try_from(PAGE)?), (3, END), (5, u64::from(RET)), (32, program)]
        {
            self.set(register, value)?;
        }
        match self.vcpu.run().context("running the machine")? {
            VcpuExit::MmioWrite(END, _) => Ok(()),
            other => bail!("the guest ends with {other:?}"),
        }
    }
}
