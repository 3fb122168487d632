//! Finding the pages that a suspend must write: pages of a private mapping of a file that have been copied, and
//! whether a page is zero. Needs Linux 6.7 or newer (`PAGEMAP_SCAN`).

#![expect(clippy::expect_used, reason = "a bench without its memory has nothing to measure")]

use std::fs::File;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hearth_vmm::snapshot::pages::{self, Range};
use hearth_vmm::snapshot::{PAGE, PAGE_BYTES};

/// Bytes of guest memory.
const MEMORY: usize = 256 << 20;
/// Pages of guest memory.
const PAGES: usize = MEMORY / PAGE_BYTES;

/// A private mapping of a file, all of whose pages have been read and every `period`th written.
struct Mapping {
    range: Range,
    _file: File,
}

impl Mapping {
    fn new(period: Option<usize>) -> Self {
        let file = tempfile::tempfile().expect("a file can be made");
        file.set_len(MEMORY as u64).expect("it can be as large as this");
        // SAFETY: a new private mapping of a file that lives as long as it does.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MEMORY,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE,
                std::os::fd::AsRawFd::as_raw_fd(&file),
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "the file cannot be mapped");
        let start = start.cast::<u8>();
        // Not with MAP_POPULATE, which would copy every page of a writable private mapping.
        for page in 0..PAGES {
            // SAFETY: within the mapping, which is readable.
            unsafe { start.add(page * PAGE_BYTES).read_volatile() };
        }
        for page in (0..PAGES).step_by(period.unwrap_or(PAGES)).filter(|_| period.is_some()) {
            // SAFETY: within the mapping, which is writable.
            unsafe { start.add(page * PAGE_BYTES).write_volatile(1) };
        }
        Self { range: Range { start, bytes: MEMORY }, _file: file }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not used any more.
        unsafe { libc::munmap(self.range.start.cast(), self.range.bytes) };
    }
}

fn scan(criterion: &mut Criterion) {
    let pagemap = File::open("/proc/self/pagemap").expect("the process has a pagemap");
    let mut group = criterion.benchmark_group("dirty scan");
    group.throughput(Throughput::Bytes(MEMORY as u64));
    for (name, period) in [
        ("nothing written", None),
        ("1 page of 64 written", Some(64)),
        ("every second page written", Some(2)),
    ] {
        let mapping = Mapping::new(period);
        if let Err(error) = pages::scan(&pagemap, mapping.range) {
            eprintln!("dirty scan: left out, this kernel has no PAGEMAP_SCAN ({error})");
            return;
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| pages::scan(&pagemap, black_box(mapping.range)).expect("it worked before"));
        });
    }
    group.finish();
}

fn zero(criterion: &mut Criterion) {
    let zeros = Mapping::new(None);
    let mut group = criterion.benchmark_group("zero pages");
    group.throughput(Throughput::Bytes(PAGE));
    group.bench_function("a page of zeros", |bencher| {
        // SAFETY: the first page of a mapping that is read-write.
        bencher.iter(|| unsafe { pages::is_zero(black_box(zeros.range.start)) });
    });
    group.finish();
}

criterion_group!(benches, scan, zero);
criterion_main!(benches);
