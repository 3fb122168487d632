//! Queue walking: the cost of a descriptor chain for a device before it does any work of its own.
//!
//! Each iteration offers a full queue of 256 chains as a driver would, and times only the device's side:
//! pop every chain, push it as used, notify once.

#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a bench that breaks its own rules has nothing to measure")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hearth_vmm::devices::virtio::queue::{Chain, VirtQueue};
use hearth_vmm::devices::virtio::testing::{Buffer, DriverQueue, test_memory};
use hearth_vmm::memory::DRAM_BASE;

/// Chains per iteration.
const CHAINS: u16 = 256;
/// Entries of the queue: room for chains of three descriptors.
const QUEUE_SIZE: u16 = 1024;
/// Guest memory, the queue at its beginning.
const MEMORY: u64 = 8 << 20;
/// Addresses of indirect tables and of buffers.
const TABLES: u64 = DRAM_BASE + (1 << 20);
const BUFFERS: u64 = DRAM_BASE + (2 << 20);
/// Bytes of a buffer.
const LENGTH: u32 = 512;

/// Layout of a chain.
#[derive(Clone, Copy)]
enum Layout {
    /// So many descriptors in the queue's own table.
    Direct(u64),
    /// So many descriptors in an indirect table.
    Indirect(u64),
}

/// A device's queue and its driver.
struct Pair {
    driver: DriverQueue,
    queue: VirtQueue,
    chain: Chain,
}

impl Pair {
    fn new() -> Self {
        let driver = DriverQueue::new(&test_memory(MEMORY), DRAM_BASE, QUEUE_SIZE);
        let queue = driver.device_end();
        Self { driver, queue, chain: Chain::new() }
    }

    /// The driver's side: offers a full load of chains, the first buffer readable, the others writable.
    fn offer(&mut self, layout: Layout) {
        while self.driver.used().is_some() {}
        for index in 0..u64::from(CHAINS) {
            let (Layout::Direct(count) | Layout::Indirect(count)) = layout;
            let at = |position| BUFFERS + (index * count + position) * u64::from(LENGTH);
            let buffer = |position| match position {
                0 => Buffer::Read(at(0), LENGTH),
                _ => Buffer::Write(at(position), LENGTH),
            };
            let buffers: Vec<_> = (0..count).map(buffer).collect();
            match layout {
                Layout::Direct(_) => self.driver.add(&buffers),
                Layout::Indirect(_) => self.driver.add_indirect(TABLES + index * 16 * count, &buffers),
            };
        }
    }

    /// The device's side: serves all chains.
    fn serve(&mut self) {
        while self.queue.pop(&mut self.chain).expect("a chain that keeps the rules") {
            let written = u32::try_from(black_box(&self.chain).writable_len()).expect("a short chain");
            self.queue.push_used(self.chain.head(), written).expect("a head of this queue");
        }
        self.queue.notify().expect("a ring in guest memory");
    }
}

fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue/256_chains");
    group.throughput(Throughput::Elements(u64::from(CHAINS)));
    let layouts = [
        ("1_descriptor", Layout::Direct(1)),
        ("3_descriptors", Layout::Direct(3)),
        ("indirect_8_descriptors", Layout::Indirect(8)),
    ];
    for (name, layout) in layouts {
        let mut pair = Pair::new();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    pair.offer(layout);
                    let start = Instant::now();
                    pair.serve();
                    total += start.elapsed();
                }
                total
            });
        });
    }
    group.finish();
}

criterion_group!(benches, queue);
criterion_main!(benches);
