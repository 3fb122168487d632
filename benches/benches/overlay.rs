//! The overlay's block map: finding the location of a run of sectors, on a disk of 8 GiB.

#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hearth_vmm::devices::virtio::block::OverlayMap;

const SECTORS: u64 = 16 << 20;
/// Sectors of one request: 128 KiB.
const REQUEST: u64 = 256;
const LOOKUPS: u64 = 1024;

/// A map in which the first `run` of every `period` sectors are in the overlay.
fn fragmented(run: u64, period: u64) -> OverlayMap {
    let mut map = OverlayMap::new(SECTORS);
    (0..SECTORS / period).for_each(|index| map.set(index * period, run));
    map
}

/// Walks through the runs of a request, as the device does.
fn look_up(map: &OverlayMap, sector: u64) -> u64 {
    let (mut at, end, mut runs) = (sector, sector + REQUEST, 0);
    while at < end {
        at += map.run(at, end - at).sectors;
        runs += 1;
    }
    runs
}

fn map(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("overlay map");
    group.throughput(Throughput::Elements(LOOKUPS));
    let maps = [
        ("untouched", OverlayMap::new(SECTORS)),
        ("4 KiB of every 64 KiB", fragmented(8, 128)),
        ("every second sector", fragmented(1, 2)),
    ];
    for (name, map) in &maps {
        group.bench_function(format!("{name}, sequential"), |bencher| {
            bencher.iter(|| (0..LOOKUPS).map(|index| look_up(map, black_box(index * REQUEST))).sum::<u64>());
        });
        group.bench_function(format!("{name}, random"), |bencher| {
            bencher.iter(|| {
                // A full-period linear congruence: every request once, in no useful order.
                let place = |index: u64| index.wrapping_mul(25_214_903_917) % (SECTORS / REQUEST);
                (0..LOOKUPS).map(|index| look_up(map, black_box(place(index) * REQUEST))).sum::<u64>()
            });
        });
    }
    group.bench_function("marking 128 KiB", |bencher| {
        let mut map = OverlayMap::new(SECTORS);
        let mut sector = 0;
        bencher.iter(|| {
            map.set(black_box(sector), REQUEST);
            sector = (sector + REQUEST) % SECTORS;
        });
    });
    group.finish();
}

criterion_group!(benches, map);
criterion_main!(benches);
