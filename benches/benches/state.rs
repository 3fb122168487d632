//! The file `state` of a snapshot: encoding and decoding the state of a machine with 2 vCPUs. A restore decodes
//! it before the guest runs, so decoding should take far less than a millisecond.

#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a bench whose machine is refused has nothing to measure")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hearth_proto::vmm::v1 as proto;
use hearth_vmm_api::snapshot::state_file;

/// Registers of a vCPU that KVM lists on a Neoverse N1.
const REGISTERS: usize = 320;
/// Runs of pages in a booted guest's memory.
const RUNS: u64 = 2000;

fn vcpu(number: usize) -> proto::SavedVcpu {
    let id = |index: usize| 0x6030_0000_0013_0000 + index as u64;
    proto::SavedVcpu {
        registers: (0..REGISTERS).map(id).collect(),
        values: (0..REGISTERS * 8).map(|index| (index + number).to_le_bytes()[0]).collect(),
        events: vec![0; 64],
        ..Default::default()
    }
}

fn machine() -> proto::SavedMachine {
    proto::SavedMachine {
        snapshot_id: vec![7; 16],
        program_version: env!("CARGO_PKG_VERSION").into(),
        config: Some(proto::Create { vcpus: 2, memory_mib: 256, ..Default::default() }),
        memory: Some(proto::SavedMemory {
            bytes: 256 << 20,
            data: (0..RUNS).flat_map(|index| [index * 30, 7]).collect(),
            ..Default::default()
        }),
        clock: Some(proto::SavedClock { counter: 1, counter_hz: 25_000_000, realtime_ns: 1 }),
        aarch64: Some(proto::SavedAarch64 {
            vcpus: (0..2).map(vcpu).collect(),
            gic: Some(proto::SavedGic::default()),
            vcpu_features: 4,
        }),
        board: Some(proto::SavedBoard::default()),
        ..Default::default()
    }
}

fn state(criterion: &mut Criterion) {
    let machine = machine();
    let bytes = state_file::encode(&machine);
    let mut group = criterion.benchmark_group("saved state");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| state_file::encode(black_box(&machine))));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| state_file::decode(black_box(&bytes)).expect("it was just encoded"));
    });
    group.finish();
}

criterion_group!(benches, state);
criterion_main!(benches);
