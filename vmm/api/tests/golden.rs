//! The files in `golden` are states that earlier builds have written: this build must read them, and write the same
//! bytes. They were created by the test `make_golden_files` of the monitor's `e2e`, run on the metal with each type of CPU.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use hearth_vmm_api::snapshot::state_file::{VERSION, decode, encode};

const GOLDEN: [(&str, &[u8]); 2] = [
    ("neoverse-n1", include_bytes!("golden/state-v1-neoverse-n1")),
    ("max", include_bytes!("golden/state-v1-max")),
];
/// Virtio device types (virtio 1.2, 5).
const VSOCK: u32 = 19;
const ENTROPY: u32 = 4;

#[test]
fn a_golden_state_is_read_and_written_again_as_it_was() {
    for (name, bytes) in GOLDEN {
        assert_eq!(bytes[8..12], VERSION.to_le_bytes(), "{name}");
        let state = decode(bytes).unwrap();
        let (config, memory) = (state.config.as_ref().unwrap(), state.memory.as_ref().unwrap());
        assert_eq!((config.vcpus, config.memory_mib, memory.bytes), (1, 128, 128 << 20), "{name}");
        assert!(config.disks.is_empty() && config.nets.is_empty() && config.balloon.is_none(), "{name}");
        assert!(config.rng && config.vsock.as_ref().unwrap().guest_cid == 3, "{name}");
        assert!(state.base_id.is_empty() && memory.zero.is_empty() && memory.base_data.is_empty(), "{name}");
        assert!(!memory.data.is_empty() && state.program_version == "0.1.0", "{name}");
        let aarch64 = state.aarch64.as_ref().unwrap();
        assert_eq!((aarch64.vcpus.len(), aarch64.gic.as_ref().unwrap().vcpus.len()), (1, 1), "{name}");
        assert!(aarch64.vcpus[0].registers.len() > 200, "{name}");
        let virtio = &state.board.as_ref().unwrap().virtio;
        let types: Vec<(u32, bool)> =
            virtio.iter().map(|device| (device.device_type, device.active)).collect();
        assert_eq!(types, [(VSOCK, true), (ENTROPY, true)], "{name}");
        assert!(encode(&state) == bytes, "{name} is written otherwise than it was");
    }
}

#[test]
fn every_flipped_bit_of_a_golden_state_is_noticed() {
    for (name, bytes) in GOLDEN {
        let mut damaged = bytes.to_vec();
        for bit in 0..bytes.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "{name}: bit {bit} was flipped");
            damaged[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
