//! Tests of states of snapshots that were taken on two types of CPU and are kept in `vmm/api/tests/golden`. Later
//! releases must read what this one writes. A host with one type of CPU must refuse a state that was taken on the
//! other, because its guest relies on that CPU.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use hearth_proto::vmm::v1::SavedVcpu;
use hearth_vmm::arch::aarch64::registers::saved_value;
use hearth_vmm::memory::DRAM_BASE;
use hearth_vmm_api::config::restore::RestoreConfig;
use hearth_vmm_api::snapshot::memory_file::trailer;
use hearth_vmm_api::snapshot::state_file;
use hearth_vmm_client::{ClientError, SaveKind};

use crate::support::{Clone, Machine, Metal, create};

const GOLDEN: [(&str, &[u8]); 2] = [
    ("neoverse-n1", include_bytes!("../../../api/tests/golden/state-v1-neoverse-n1")),
    ("max", include_bytes!("../../../api/tests/golden/state-v1-max")),
];
/// KVM's id of `MIDR_EL1`, which identifies the type of the CPU.
pub(crate) const MIDR: u64 = 0x6030_0000_0013_c000;
/// Memory of the guest in MiB.
const MEMORY: u64 = 128;
/// Offset of the index in a ring (virtio 1.2, 2.7.6 and 2.7.8).
const INDEX: u64 = 2;

/// Returns the offset of a register's value among a vCPU's values.
pub(crate) fn offset_of(vcpu: &SavedVcpu, register: u64) -> Option<usize> {
    let value = saved_value(vcpu, register)?;
    Some(value.as_ptr() as usize - vcpu.values.as_ptr() as usize)
}

fn midr_of(vcpu: &SavedVcpu) -> u64 {
    u64::from_le_bytes(saved_value(vcpu, MIDR).unwrap().try_into().unwrap())
}

/// Returns the `MIDR_EL1` of this host.
fn own_midr() -> u64 {
    let text = fs::read_to_string("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1").unwrap();
    u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap()
}

#[test]
fn a_golden_state_is_taken_on_its_own_cpu_and_refused_on_others() {
    let Some(metal) = Metal::find() else { return };
    for (name, bytes) in GOLDEN {
        let state = state_file::decode(bytes).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, bytes).unwrap();
        // The guest's memory is not kept with the state. This one is never run; it only has the rings' indices, which
        // devices read.
        let memory = create(&folder.path().join("memory"));
        let id = state.snapshot_id.as_slice().try_into().unwrap();
        memory.write_all_at(&trailer(MEMORY << 20, &id, None), MEMORY << 20).unwrap();
        let virtio = &state.board.as_ref().unwrap().virtio;
        for queue in virtio.iter().flat_map(|device| &device.queues).filter(|queue| queue.ready) {
            for (ring, index) in
                [(queue.available_ring, queue.next_available), (queue.used_ring, queue.next_used)]
            {
                let index = u16::try_from(index).unwrap().to_le_bytes();
                memory.write_all_at(&index, ring - DRAM_BASE + INDEX).unwrap();
            }
        }
        let config = RestoreConfig::new(File::open(path).unwrap(), memory);
        let clone = Clone::new(&metal, config, MEMORY, folder.path().join("memory"));
        let own = midr_of(&state.aarch64.unwrap().vcpus[0]) == own_midr();
        match clone.attempt() {
            Ok(guest) => {
                assert!(own, "{name} was taken on another CPU");
                guest.kill();
            }
            Err(ClientError::Refused { message, .. }) => {
                eprintln!("{name}: {message}");
                assert!(!own, "{name}: {message}");
                assert!(message.contains("CPU"), "{message}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Creates the file for this host's CPU, in `HEARTH_OUT`: `cargo xtask metal --out`.
#[test]
#[ignore = "makes what the other test reads"]
fn make_golden_files() {
    let Some(metal) = Metal::find() else { return };
    let mut machine = Machine::new(&metal);
    machine.config.memory_mib = MEMORY;
    let guest = machine.boot();
    let saved = guest.save(SaveKind::Full);
    guest.kill();
    let out = std::env::var("HEARTH_OUT").unwrap();
    fs::copy(saved.state(), format!("{out}/state-v1")).unwrap();
    eprintln!("{} bytes of a CPU with MIDR_EL1 {:#x}", saved.state().metadata().unwrap().len(), own_midr());
}
