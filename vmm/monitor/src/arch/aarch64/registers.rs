//! A vCPU's registers, saved and restored through KVM's one-reg interface (Linux,
//! Documentation/virt/kvm/api.rst, `KVM_GET_REG_LIST`).
//!
//! Every register that KVM lists is saved as it is, so this module handles most registers without knowing their
//! names. The exceptions are:
//!
//! * the counters, which a VM-wide offset sets (see [`super::counter`]);
//! * the SVE vector lengths, which must be set before the vCPU is finalised;
//! * the identification registers, which describe to the guest what its CPU can do: a host that lacks a feature
//!   refuses the value, and the error explains which fields differ.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use hearth_proto::vmm::v1::SavedVcpu;
use hearth_vmm_api::snapshot::state_file::StateError;
use kvm_bindings::{
    KVM_REG_ARM_COPROC_MASK, KVM_REG_ARM64, KVM_REG_ARM64_SVE, KVM_REG_ARM64_SYSREG,
    KVM_REG_ARM64_SYSREG_CRM_SHIFT, KVM_REG_ARM64_SYSREG_CRN_SHIFT, KVM_REG_ARM64_SYSREG_OP0_SHIFT,
    KVM_REG_ARM64_SYSREG_OP1_SHIFT, KVM_REG_ARM64_SYSREG_OP2_SHIFT, KVM_REG_SIZE_MASK, KVM_REG_SIZE_SHIFT,
    KVM_REG_SIZE_U64, KVM_REG_SIZE_U512, kvm_mp_state, kvm_one_reg, kvm_vcpu_events,
};

const KVM_GET_MP_STATE: u64 = 0x8004_ae98;
const KVM_SET_MP_STATE: u64 = 0x4004_ae99;
const KVM_GET_VCPU_EVENTS: u64 = 0x8040_ae9f;
const KVM_SET_VCPU_EVENTS: u64 = 0x4040_aea0;
const KVM_GET_ONE_REG: u64 = 0x4010_aeab;
const KVM_SET_ONE_REG: u64 = 0x4010_aeac;
const KVM_GET_REG_LIST: u64 = 0xc008_aeb0;

/// The one-reg id of `MPIDR_EL1`.
pub const MPIDR: u64 = system_register(3, 0, 0, 0, 5);
/// `MIDR_EL1`, which identifies the type of CPU.
const MIDR: u64 = system_register(3, 0, 0, 0, 0);
/// The virtual counter, `KVM_REG_ARM_TIMER_CNT`. KVM's ABI gives it the encoding that belongs to `CNTV_CVAL_EL0`.
pub const TIMER_COUNT: u64 = system_register(3, 3, 14, 3, 2);
/// The physical counter, `KVM_REG_ARM_PTIMER_CNT`.
const PHYSICAL_TIMER_COUNT: u64 = system_register(3, 3, 14, 0, 1);
/// The SVE vector lengths of a vCPU, as a set of 512 bits.
pub const SVE_LENGTHS: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U512 | KVM_REG_ARM64_SVE as u64 | 0xffff;

/// Largest number of registers that a vCPU may have. Linux 6.12 lists some 250, and 100 more with SVE.
const MOST_REGISTERS: usize = 4096;
/// Size of the longest register in bytes: `KVM_REG_SIZE_U2048`.
const LONGEST: usize = 256;

/// Why registers could not be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// A KVM request failed.
    #[error("vCPU {vcpu}: {what}: {source}")]
    Kvm {
        /// Number of the vCPU.
        vcpu: usize,
        /// The operation that failed.
        what: &'static str,
        /// Error from KVM.
        source: io::Error,
    },
    /// KVM refused a register's value.
    #[error(
        "vCPU {vcpu}: this host's KVM does not take register {register} = {value}: {source}; restore the snapshot on a host like the one it was taken on"
    )]
    Refused {
        /// Number of the vCPU.
        vcpu: usize,
        /// The register's name.
        register: String,
        /// The value in hexadecimal.
        value: String,
        /// Error from KVM.
        source: io::Error,
    },
    /// The snapshot was taken on another type of CPU.
    #[error(
        "the snapshot was taken on another type of CPU: MIDR_EL1 is {saved:#010x} there and {host:#010x} here; restore it on a host with the same CPU"
    )]
    Cpu {
        /// `MIDR_EL1` in the snapshot.
        saved: u64,
        /// `MIDR_EL1` on this host.
        host: u64,
    },
    /// The guest uses CPU features that this host lacks.
    #[error(
        "the snapshot's guest uses CPU features that this host lacks: {register} is {saved:#018x} there and {host:#018x} here, which differ in {fields}; restore it on a host with the same CPU and host kernel"
    )]
    Features {
        /// Name of the identification register.
        register: String,
        /// The snapshot's value.
        saved: u64,
        /// This host's value.
        host: u64,
        /// The four-bit fields that differ.
        fields: String,
    },
    /// The saved state is invalid.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Access to the registers of one vCPU. The vCPU must not be in `KVM_RUN`.
#[derive(Debug, Clone, Copy)]
pub struct Registers<'a> {
    /// The vCPU's descriptor.
    pub fd: BorrowedFd<'a>,
    /// Number of the vCPU, for error messages.
    pub vcpu: usize,
}

/// The one-reg id of a 64-bit system register.
const fn system_register(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    KVM_REG_ARM64
        | KVM_REG_SIZE_U64
        | KVM_REG_ARM64_SYSREG as u64
        | op0 << KVM_REG_ARM64_SYSREG_OP0_SHIFT
        | op1 << KVM_REG_ARM64_SYSREG_OP1_SHIFT
        | crn << KVM_REG_ARM64_SYSREG_CRN_SHIFT
        | crm << KVM_REG_ARM64_SYSREG_CRM_SHIFT
        | op2 << KVM_REG_ARM64_SYSREG_OP2_SHIFT
}

/// Size of register `id` in bytes.
fn size_of_register(id: u64) -> usize {
    1 << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT & 0xf)
}

/// Fields of a 64-bit system register's id: op0, op1, CRn, CRm, op2. `None` for any other register.
fn system_fields(id: u64) -> Option<[u64; 5]> {
    let is_system = id & u64::from(KVM_REG_ARM_COPROC_MASK) == u64::from(KVM_REG_ARM64_SYSREG)
        && id & KVM_REG_SIZE_MASK == KVM_REG_SIZE_U64;
    is_system.then_some([id >> 14 & 3, id >> 11 & 7, id >> 7 & 0xf, id >> 3 & 0xf, id & 7])
}

/// The architecture's name of a system register, or the id in hexadecimal of any other register.
fn name(id: u64) -> String {
    match system_fields(id) {
        Some([op0, op1, crn, crm, op2]) => {
            let known = match (op0, op1, crn, crm, op2) {
                (3, 0, 0, 0, 0) => "MIDR_EL1",
                (3, 0, 0, 4, 0) => "ID_AA64PFR0_EL1",
                (3, 0, 0, 4, 1) => "ID_AA64PFR1_EL1",
                (3, 0, 0, 4, 4) => "ID_AA64ZFR0_EL1",
                (3, 0, 0, 5, 0) => "ID_AA64DFR0_EL1",
                (3, 0, 0, 6, 0) => "ID_AA64ISAR0_EL1",
                (3, 0, 0, 6, 1) => "ID_AA64ISAR1_EL1",
                (3, 0, 0, 6, 2) => "ID_AA64ISAR2_EL1",
                (3, 0, 0, 7, 0) => "ID_AA64MMFR0_EL1",
                (3, 0, 0, 7, 1) => "ID_AA64MMFR1_EL1",
                (3, 0, 0, 7, 2) => "ID_AA64MMFR2_EL1",
                _ => return format!("S{op0}_{op1}_C{crn}_C{crm}_{op2}"),
            };
            known.to_owned()
        }
        None => format!("{id:#018x}"),
    }
}

/// Whether a register identifies the CPU and its features to the guest.
fn is_identification(id: u64) -> bool {
    matches!(system_fields(id), Some([3, 0, 0, ..]))
}

impl Registers<'_> {
    fn ioctl<T>(&self, request: u64, argument: *mut T) -> io::Result<()> {
        // SAFETY: every caller passes the structure that `request` takes, with room for what is written.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), request, argument) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> RegisterError + use<> {
        let vcpu = self.vcpu;
        move |source| RegisterError::Kvm { vcpu, what, source }
    }

    fn get(&self, id: u64, value: &mut [u8]) -> io::Result<()> {
        if value.len() < size_of_register(id) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut argument = kvm_one_reg { id, addr: value.as_mut_ptr() as u64 };
        self.ioctl(KVM_GET_ONE_REG, &raw mut argument)
    }

    fn set(&self, id: u64, value: &[u8]) -> io::Result<()> {
        if value.len() < size_of_register(id) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut argument = kvm_one_reg { id, addr: value.as_ptr() as u64 };
        self.ioctl(KVM_SET_ONE_REG, &raw mut argument)
    }

    /// Reads 64-bit register `id`; `what` describes the operation in an error.
    ///
    /// # Errors
    /// [`RegisterError::Kvm`].
    pub fn get_u64(&self, id: u64, what: &'static str) -> Result<u64, RegisterError> {
        let mut bytes = [0; 8];
        self.get(id, &mut bytes).map_err(self.failed(what))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads the vector lengths of a vCPU with SVE.
    ///
    /// # Errors
    /// The error that KVM returns.
    pub fn vector_lengths(&self) -> io::Result<[u8; 64]> {
        let mut lengths = [0; 64];
        self.get(SVE_LENGTHS, &mut lengths).map(|()| lengths)
    }

    /// Sets the vector lengths of a vCPU with SVE that is not finalised yet.
    ///
    /// # Errors
    /// [`RegisterError::Refused`] when the host does not have all of them.
    pub fn set_vector_lengths(&self, lengths: &[u8]) -> Result<(), RegisterError> {
        self.set(SVE_LENGTHS, lengths).map_err(|source| self.refused(SVE_LENGTHS, lengths, source))
    }

    fn refused(&self, id: u64, value: &[u8], source: io::Error) -> RegisterError {
        let register = if id == SVE_LENGTHS { "SVE vector lengths".to_owned() } else { name(id) };
        let value: String = value.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        let value = format!("0x{}", value.trim_start_matches('0'));
        RegisterError::Refused { vcpu: self.vcpu, register, value, source }
    }

    /// Reads the ids of all registers.
    fn list(&self) -> Result<Vec<u64>, RegisterError> {
        let mut list = vec![0_u64; MOST_REGISTERS + 1];
        if let Some(count) = list.first_mut() {
            *count = MOST_REGISTERS as u64;
        }
        self.ioctl(KVM_GET_REG_LIST, list.as_mut_ptr()).map_err(self.failed("listing the registers"))?;
        let count = list.first().map_or(0, |&count| usize::try_from(count).unwrap_or(0));
        Ok(list.get(1..=count).unwrap_or_default().to_vec())
    }

    /// Reads the complete state of the vCPU: its registers, its run state and its pending events.
    ///
    /// # Errors
    /// [`RegisterError::Kvm`].
    pub fn save(&self) -> Result<SavedVcpu, RegisterError> {
        let registers = self.list()?;
        let mut values = Vec::with_capacity(registers.len() * 8);
        let mut value = [0; LONGEST];
        for &id in &registers {
            let Some(value) = value.get_mut(..size_of_register(id)) else {
                return Err(StateError::content(format!("register {id:#x} is too long")).into());
            };
            self.get(id, value).map_err(self.failed("reading a register"))?;
            values.extend_from_slice(value);
        }
        let mut mp_state = kvm_mp_state::default();
        self.ioctl(KVM_GET_MP_STATE, &raw mut mp_state).map_err(self.failed("reading whether it runs"))?;
        let mut events = kvm_vcpu_events::default();
        self.ioctl(KVM_GET_VCPU_EVENTS, &raw mut events).map_err(self.failed("reading pending events"))?;
        // SAFETY: the structure is plain data without padding that matters, as large as the array.
        let events: [u8; size_of::<kvm_vcpu_events>()] = unsafe { std::mem::transmute(events) };
        Ok(SavedVcpu { registers, values, mp_state: mp_state.mp_state, events: events.to_vec() })
    }

    /// Checks that this host has the type of CPU on which `saved` was read.
    ///
    /// # Errors
    /// [`RegisterError::Cpu`], [`RegisterError::Kvm`].
    pub fn check_cpu(&self, saved: &SavedVcpu) -> Result<(), RegisterError> {
        let host = self.get_u64(MIDR, "reading MIDR_EL1")?;
        match saved_value(saved, MIDR).map(number) {
            Some(saved) if saved != host => Err(RegisterError::Cpu { saved, host }),
            _ => Ok(()),
        }
    }

    /// Restores the state that [`Self::save`] read. The caller has set the counter's offset and checked the CPU's type.
    ///
    /// # Errors
    /// [`RegisterError`], which names what this host lacks.
    pub fn restore(&self, saved: &SavedVcpu) -> Result<(), RegisterError> {
        for (id, value) in each(saved) {
            let value = value?;
            match id {
                TIMER_COUNT | PHYSICAL_TIMER_COUNT | SVE_LENGTHS | MIDR => continue,
                _ => {}
            }
            if let Err(source) = self.set(id, value) {
                return Err(self.explain(id, value, source));
            }
        }
        let mut events = kvm_vcpu_events::default();
        if saved.events.len() != size_of_val(&events) {
            return Err(StateError::content("a vCPU's events have another length").into());
        }
        // SAFETY: the lengths are equal, and any bytes are a valid value of this plain data.
        unsafe {
            std::ptr::copy_nonoverlapping(
                saved.events.as_ptr(),
                (&raw mut events).cast::<u8>(),
                saved.events.len(),
            );
        }
        if saved.events.iter().any(|&byte| byte != 0) {
            self.ioctl(KVM_SET_VCPU_EVENTS, &raw mut events)
                .map_err(self.failed("putting back pending events"))?;
        }
        let mut mp_state = kvm_mp_state { mp_state: saved.mp_state };
        self.ioctl(KVM_SET_MP_STATE, &raw mut mp_state).map_err(self.failed("putting back whether it runs"))
    }

    fn explain(&self, id: u64, value: &[u8], source: io::Error) -> RegisterError {
        let host = self.get_u64(id, "reading an identification register");
        match (is_identification(id), host) {
            (true, Ok(host)) => {
                let saved = number(value);
                let differs = |field: &u32| saved >> field & 0xf != host >> field & 0xf;
                let fields: Vec<String> = (0..64)
                    .step_by(4)
                    .filter(differs)
                    .map(|field| {
                        format!(
                            "bits {}:{field} ({} there, {} here)",
                            field + 3,
                            saved >> field & 0xf,
                            host >> field & 0xf
                        )
                    })
                    .collect();
                RegisterError::Features { register: name(id), saved, host, fields: fields.join(", ") }
            }
            _ => self.refused(id, value, source),
        }
    }
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_le_bytes)
}

/// Iterates over the registers of `saved` with their values.
fn each(saved: &SavedVcpu) -> impl Iterator<Item = (u64, Result<&[u8], StateError>)> {
    let mut rest = saved.values.as_slice();
    saved.registers.iter().map(move |&id| {
        let short = || StateError::content("a vCPU has fewer values than registers");
        let value = rest.split_at_checked(size_of_register(id)).ok_or_else(short).map(|(value, others)| {
            rest = others;
            value
        });
        (id, value)
    })
}

/// The value of register `id` in `saved`, or `None` when `saved` does not contain it.
#[must_use]
pub fn saved_value(saved: &SavedVcpu, id: u64) -> Option<&[u8]> {
    each(saved).find(|(other, _)| *other == id).and_then(|(_, value)| value.ok())
}
