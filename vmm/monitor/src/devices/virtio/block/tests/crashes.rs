//! Tests of the disk's contents after the monitor or the host died at any point.

use std::collections::BTreeMap;

use proptest::prelude::*;
use virtio_bindings::virtio_blk as blk;

use super::super::flush::{Flusher, Step};
use super::super::map::{MAP_PAGE_SIZE, OverlayMap};
use super::super::overlay::MAP_OFFSET;
use super::super::testing::{DATA, Guest, OK, memory_file, overlay};
use crate::devices::virtio::VirtioDevice as _;
use crate::devices::virtio::testing::Buffer;

fn cases(full: u32, quick: u32) -> ProptestConfig {
    ProptestConfig::with_cases(if hearth_testing::full() { full } else { quick })
}

// === Death of the monitor: the whole device, on real files ===

const PAGE_SECTORS: u64 = 32768;
const SECTORS: u64 = 3 * PAGE_SECTORS + 16;
/// First sectors of the ranges that the test uses: both ends of the disk and the borders between pages of the map.
const WINDOWS: [u64; 4] = [0, PAGE_SECTORS - 8, 2 * PAGE_SECTORS - 8, SECTORS - 16];
const WINDOW: u64 = 16;

#[derive(Debug, Clone)]
enum Op {
    /// Writes that are made available together (window, first sector in it, sectors), with or without a flush after
    /// them.
    Writes(Vec<(usize, u64, u64)>, bool),
    Zero(u32, u32, (usize, u64, u64)),
    Read(usize),
    Flush,
    Quiesce,
    Die,
}

fn range() -> impl Strategy<Value = (usize, u64, u64)> {
    (0..WINDOWS.len(), 0..WINDOW)
        .prop_flat_map(|(window, first)| (Just(window), Just(first), 1..=WINDOW - first))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (proptest::collection::vec(range(), 1..6), any::<bool>()).prop_map(|(w, f)| Op::Writes(w, f)),
        1 => range().prop_map(|range| Op::Zero(blk::VIRTIO_BLK_T_DISCARD, 0, range)),
        1 => (range(), 0..2u32).prop_map(|(range, unmap)| Op::Zero(blk::VIRTIO_BLK_T_WRITE_ZEROES, unmap, range)),
        3 => (0..WINDOWS.len()).prop_map(Op::Read),
        2 => Just(Op::Flush),
        1 => Just(Op::Quiesce),
        2 => Just(Op::Die),
    ]
}

/// The content of a sector that is filled with one number.
fn stamped(stamp: u32) -> Vec<u8> {
    stamp.to_le_bytes().repeat(128)
}

/// The contents that each sector may have after a crash, the last written one last.
#[derive(Default)]
struct Model(BTreeMap<u64, Vec<u32>>);

impl Model {
    fn written(&mut self, sector: u64, stamp: u32) {
        self.0.entry(sector).or_default().push(stamp);
    }
    fn made_durable(&mut self) {
        self.0.values_mut().for_each(|stamps| drop(stamps.drain(..stamps.len() - 1)));
    }
}

fn check(
    guest: &mut Guest,
    model: &mut Model,
    window: usize,
    after_death: bool,
) -> Result<(), TestCaseError> {
    let content = guest.read(WINDOWS[window], usize::try_from(WINDOW).unwrap() * 512);
    for (sector, bytes) in (WINDOWS[window]..).zip(content.chunks_exact(512)) {
        let stamp = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        prop_assert_eq!(bytes, stamped(stamp), "sector {} is torn", sector);
        let allowed = model.0.get_mut(&sector).unwrap();
        if after_death {
            prop_assert!(allowed.contains(&stamp), "sector {}: {:x} not in {:x?}", sector, stamp, allowed);
            *allowed = vec![stamp];
        }
        prop_assert_eq!(Some(&stamp), allowed.last(), "sector {}", sector);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(512, 48))]

    /// For any sequence of requests the disk behaves like a plain disk. After the monitor dies without warning, every
    /// sector holds the content that was flushed last, or one written later.
    #[test]
    fn an_overlay_disk_is_a_disk_and_a_flush_is_kept(ops in proptest::collection::vec(op(), 1..40)) {
        use std::os::unix::fs::FileExt as _;
        let (base, top) = (memory_file(SECTORS * 512), memory_file(0));
        let mut model = Model::default();
        for sector in WINDOWS.iter().flat_map(|window| *window..window + WINDOW) {
            let stamp = 0xb000_0000 | u32::try_from(sector).unwrap();
            base.write_all_at(&stamped(stamp), sector * 512).unwrap();
            model.written(sector, stamp);
        }
        let mut guest = Guest::new(overlay(&base, &top));
        let mut stamp = 0;
        for op in ops {
            match op {
                Op::Writes(mut ranges, flush) => {
                    // The order of simultaneous writes to one sector is undefined, so there is one write per window.
                    ranges.sort_unstable();
                    ranges.dedup_by_key(|(window, ..)| *window);
                    let mut statuses = Vec::new();
                    for (place, (window, first, count)) in (0u64..).zip(ranges) {
                        stamp += 1;
                        let bytes = stamped(stamp).repeat(usize::try_from(count).unwrap());
                        let (at, sector) = (DATA + place * 0x4000, WINDOWS[window] + first);
                        guest.put(at, &bytes);
                        let buffer = Buffer::Read(at, u32::try_from(bytes.len()).unwrap());
                        statuses.push(guest.offer(blk::VIRTIO_BLK_T_OUT, sector, &[buffer]));
                        (sector..sector + count).for_each(|sector| model.written(sector, stamp));
                    }
                    if flush {
                        statuses.push(guest.offer(blk::VIRTIO_BLK_T_FLUSH, 0, &[]));
                    }
                    guest.notify();
                    statuses.iter().for_each(|_| assert!(guest.wait() > 0));
                    prop_assert!(statuses.iter().all(|status| guest.get(*status, 1) == [OK]));
                }
                Op::Zero(kind, flags, (window, first, count)) => {
                    let sector = WINDOWS[window] + first;
                    prop_assert_eq!(guest.segments(kind, &[(sector, u32::try_from(count).unwrap(), flags)]), OK);
                    (sector..sector + count).for_each(|sector| model.written(sector, 0));
                }
                Op::Read(window) => check(&mut guest, &mut model, window, false)?,
                Op::Flush => {
                    prop_assert_eq!(guest.flush(), OK);
                    model.made_durable();
                }
                Op::Quiesce => {
                    guest.rig.device.quiesce().unwrap();
                    model.made_durable();
                }
                Op::Die => {
                    drop(guest);
                    guest = Guest::new(overlay(&base, &top));
                    for window in 0..WINDOWS.len() {
                        check(&mut guest, &mut model, window, true)?;
                    }
                }
            }
        }
        for window in 0..WINDOWS.len() {
            check(&mut guest, &mut model, window, false)?;
        }
    }
}

// === Death of the host: the order of writes and syncs alone, on a simulated page cache ===

/// The disk of the simulation: 70 pages of map, more than are staged at a time.
const SIMULATED: u64 = 70 * PAGE_SECTORS;

/// A file's content in the page cache or on the medium: versions by sector, and bytes by page of the map.
#[derive(Clone, Default)]
struct Content {
    data: BTreeMap<u64, u32>,
    map: BTreeMap<usize, Vec<u8>>,
}

struct Host {
    map: OverlayMap,
    flusher: Flusher,
    cached: Content,
    durable: Content,
    /// The content that the running sync will make durable: that of the cache when the sync began.
    syncing: Option<Content>,
    /// The contents that each waiting flush guarantees, by its number. `promised` holds those of completed flushes.
    promises: BTreeMap<u16, BTreeMap<u64, u32>>,
    promised: BTreeMap<u64, u32>,
    failed_sync: bool,
}

#[derive(Debug, Clone)]
enum Event {
    Write(u64),
    Flush,
    /// The current step succeeds; a write does so with at most this many bytes at a time.
    Done(usize),
    Fails,
    /// The kernel writes something back by itself.
    WriteBack(prop::sample::Index, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let sector = (0..70u64, 0..4u64).prop_map(|(page, sector)| page * PAGE_SECTORS + sector * 8191);
    prop_oneof![
        8 => sector.prop_map(Event::Write),
        3 => Just(Event::Flush),
        8 => prop_oneof![Just(usize::MAX), 1..3 * MAP_PAGE_SIZE].prop_map(Event::Done),
        1 => Just(Event::Fails),
        2 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(i, data)| Event::WriteBack(i, data)),
    ]
}

impl Host {
    fn new() -> Self {
        Self {
            map: OverlayMap::new(SIMULATED),
            flusher: Flusher::new(true, 1000, false),
            cached: Content::default(),
            durable: Content::default(),
            syncing: None,
            promises: BTreeMap::new(),
            promised: BTreeMap::new(),
            failed_sync: false,
        }
    }

    fn drive(&mut self) {
        if self.flusher.has_waiting() {
            self.flusher.begin(Some(&mut self.map));
        }
        while let Some((number, durable)) = self.flusher.take_finished() {
            let promise = self.promises.remove(&number).unwrap();
            if durable {
                assert!(!self.failed_sync, "a flush succeeded after a sync had failed");
                self.promised.extend(promise);
            }
        }
        if self.flusher.step() == Step::Sync && self.syncing.is_none() {
            self.syncing = Some(self.cached.clone());
        }
    }

    fn done(&mut self, most: usize) {
        match self.flusher.step() {
            Step::Idle => {}
            Step::Sync => {
                self.durable = self.syncing.take().unwrap();
                self.flusher.succeeded(0, Some(&mut self.map));
            }
            Step::Write { file_offset, start, length } => {
                let length = length.min(most);
                let at = usize::try_from(file_offset - MAP_OFFSET).unwrap();
                for (position, byte) in (at..).zip(&self.flusher.staging()[start..start + length]) {
                    let page =
                        self.cached.map.entry(position / MAP_PAGE_SIZE).or_insert(vec![0; MAP_PAGE_SIZE]);
                    page[position % MAP_PAGE_SIZE] = *byte;
                }
                self.flusher.succeeded(length, Some(&mut self.map));
            }
        }
    }

    /// Checks the contents that the host would find if it lost power now.
    fn check(&self) -> Result<(), TestCaseError> {
        let bit_is_set = |sector: u64| {
            let page = self.durable.map.get(&usize::try_from(sector / PAGE_SECTORS).unwrap());
            let bit = usize::try_from(sector % PAGE_SECTORS).unwrap();
            page.is_some_and(|bytes| bytes[bit / 8] >> (bit % 8) & 1 == 1)
        };
        for page in self.durable.map.keys() {
            for sector in (0..4).map(|n| *page as u64 * PAGE_SECTORS + n * 8191) {
                let has_data = self.durable.data.contains_key(&sector);
                prop_assert!(has_data || !bit_is_set(sector), "sector {} has no data", sector);
            }
        }
        for (sector, version) in &self.promised {
            prop_assert!(bit_is_set(*sector), "the bit of sector {} was promised", sector);
            prop_assert!(self.durable.data.get(sector) >= Some(version), "sector {} was promised", sector);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(4096, 128))]

    /// Whenever the host loses power, no bit points to missing data, and everything that a flush guaranteed is there.
    #[test]
    fn at_every_point_the_medium_holds_what_was_promised(
        events in proptest::collection::vec(event(), 1..150), many in 0..70u64,
    ) {
        let mut host = Host::new();
        let first = (0..many).map(|page| Event::Write(page * PAGE_SECTORS));
        for (number, event) in (1..).zip(first.chain(events)) {
            match event {
                Event::Write(sector) => {
                    host.cached.data.insert(sector, u32::from(number));
                    host.map.set(sector, 1);
                    host.flusher.data_written();
                }
                Event::Flush => {
                    host.promises.insert(number, host.cached.data.clone());
                    host.flusher.wait(number);
                }
                Event::Done(most) => host.done(most),
                Event::Fails if host.flusher.step() == Step::Idle => {}
                Event::Fails => {
                    host.failed_sync |= host.flusher.step() == Step::Sync;
                    host.syncing = None;
                    host.flusher.failed(Some(&mut host.map));
                }
                Event::WriteBack(index, true) if !host.cached.data.is_empty() => {
                    let (sector, version) = host.cached.data.iter().nth(index.index(host.cached.data.len())).unwrap();
                    host.durable.data.insert(*sector, *version);
                }
                Event::WriteBack(index, false) if !host.cached.map.is_empty() => {
                    let (page, bytes) = host.cached.map.iter().nth(index.index(host.cached.map.len())).unwrap();
                    host.durable.map.insert(*page, bytes.clone());
                }
                Event::WriteBack(..) => {}
            }
            host.drive();
            host.check()?;
        }
        // Without further events, every flush finishes.
        let steps_at_most = 2 * 70 + 100;
        for _ in 0..steps_at_most {
            host.done(usize::MAX);
            host.drive();
            host.check()?;
            if host.promises.is_empty() && host.flusher.step() == Step::Idle {
                break;
            }
        }
        prop_assert!(host.promises.is_empty() && host.flusher.step() == Step::Idle);
    }
}
