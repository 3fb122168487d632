use hearth_vmm_api::config::BalloonConfig;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _};

use super::super::testing::{Buffer, Rig};
use super::super::{DeviceError, VIRTIO_F_VERSION_1, VirtioDevice};
use super::device::{DEFLATE_ON_OOM, QUEUE_SIZE, REPORTING, STATS_VQ};
use super::reclaim::MAX_PAGES_PER_REQUEST;
use super::*;
use crate::memory::DRAM_BASE;

const FREE: u64 = Rig::<Balloon>::FREE;
const MEMORY: u64 = 8 << 20;
/// Guest address of the tests' requests.
const LIST: u64 = FREE;
/// Number of the first page that the tests return to the host.
const FIRST: u32 = ((FREE + 0x10_0000) / PAGE_SIZE) as u32;

fn balloon(free_page_reporting: bool) -> Balloon {
    Balloon::new(BalloonConfig { target_mib: 0, free_page_reporting }, 8).unwrap()
}

fn rig(features: u64) -> Rig<Balloon> {
    let rig = Rig::new(balloon(true), MEMORY, QUEUE_SIZE, VIRTIO_F_VERSION_1 | features);
    let filled = vec![0xaa; (DRAM_BASE + MEMORY - FREE) as usize];
    rig.memory.write_slice(&filled, GuestAddress(FREE)).unwrap();
    rig
}

fn add_list(rig: &mut Rig<Balloon>, queue: usize, pages: &[u32]) -> u16 {
    let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    rig.memory.write_slice(&bytes, GuestAddress(LIST)).unwrap();
    rig.queues[queue].add(&[Buffer::Read(LIST, bytes.len() as u32)])
}

/// Whether the host has memory allocated for the guest page.
fn resident(rig: &Rig<Balloon>, page: u32) -> bool {
    let slice = rig.memory.get_slice(GuestAddress(u64::from(page) * PAGE_SIZE), 4096).unwrap();
    let mut state = 0u8;
    // SAFETY: the call is about one page, and the kernel writes one byte.
    let result = unsafe { libc::mincore(slice.ptr_guard_mut().as_ptr().cast(), 4096, &raw mut state) };
    assert_eq!(result, 0);
    state & 1 == 1
}

fn first_byte(rig: &Rig<Balloon>, page: u32) -> u8 {
    rig.memory.read_obj(GuestAddress(u64::from(page) * PAGE_SIZE)).unwrap()
}

fn counter(rig: &Rig<Balloon>, name: &str) -> u64 {
    rig.device.counters().iter().find(|(other, _)| *other == name).unwrap().1
}

#[test]
fn inflated_pages_go_back_to_the_host_and_their_neighbours_stay() {
    let mut rig = rig(0);
    // The page numbers are out of order, contain a duplicate and form two runs.
    let head = add_list(&mut rig, 0, &[FIRST + 3, FIRST + 2, FIRST + 10, FIRST + 3, FIRST + 4]);
    rig.device.queue_notified(0).unwrap();
    assert_eq!(rig.queues[0].used(), Some((head, 0)));
    assert_eq!(rig.interrupt.status(), 1);
    for page in 0..16 {
        let given = [2, 3, 4, 10].contains(&page);
        assert_eq!(resident(&rig, FIRST + page), !given, "page {page}");
        assert_eq!(first_byte(&rig, FIRST + page), if given { 0 } else { 0xaa }, "page {page}");
    }
    assert_eq!(counter(&rig, "inflated_pages"), 5);
}

#[test]
fn deflating_only_counts() {
    let mut rig = rig(0);
    let head = add_list(&mut rig, 1, &[FIRST, FIRST + 1]);
    rig.device.queue_notified(1).unwrap();
    assert_eq!(rig.queues[1].used(), Some((head, 0)));
    assert_eq!(counter(&rig, "deflated_pages"), 2);
    assert!(resident(&rig, FIRST));
}

#[test]
fn pages_outside_guest_memory_stop_the_device_and_harm_nothing() {
    let last = ((DRAM_BASE + MEMORY) / PAGE_SIZE) as u32;
    for page in [0, 1, (DRAM_BASE / PAGE_SIZE) as u32 - 1, last, u32::MAX] {
        let mut rig = rig(0);
        add_list(&mut rig, 0, &[page]);
        assert!(matches!(rig.device.queue_notified(0), Err(DeviceError::Queue(_))), "{page:#x}");
    }
    // A run that begins inside guest memory and extends beyond its end is refused.
    let mut rig = rig(0);
    add_list(&mut rig, 0, &[last, last - 1]);
    assert!(rig.device.queue_notified(0).is_err());
    assert!(resident(&rig, last - 1));
}

#[test]
fn requests_that_are_no_list_of_page_numbers_stop_the_device() {
    for length in [1, 6, MAX_PAGES_PER_REQUEST as u32 * 4 + 4] {
        for queue in [0, 1] {
            let mut rig = rig(0);
            rig.queues[queue].add(&[Buffer::Read(LIST, length)]);
            assert!(matches!(rig.device.queue_notified(queue), Err(DeviceError::Protocol(_))), "{length}");
        }
    }
}

/// The queues as Linux places them on MMIO when both features were negotiated: statistics 2, reporting 3.
#[test]
fn reported_free_pages_go_back_whatever_number_the_queue_has() {
    for (features, index) in [(STATS_VQ | REPORTING, 3), (REPORTING, 2)] {
        let mut rig = rig(features);
        let at = |page: u32| u64::from(FIRST + page) * PAGE_SIZE;
        // Two whole pages and parts of their neighbours, then less than a page.
        let chain = [Buffer::Write(at(1) + 100, 3 * 4096), Buffer::Write(at(8) + 1, 4095)];
        let head = rig.queues[index].add(&chain);
        rig.device.queue_notified(index).unwrap();
        assert_eq!(rig.queues[index].used(), Some((head, 0)));
        assert_eq!(counter(&rig, "reported_bytes"), 2 * 4096);
        for page in 0..10 {
            assert_eq!(resident(&rig, FIRST + page), ![2, 3].contains(&page), "page {page}");
        }
    }
}

fn stats_bytes(entries: &[(u16, u64)]) -> Vec<u8> {
    entries.iter().flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()).collect()
}

fn add_stats(rig: &mut Rig<Balloon>, entries: &[(u16, u64)]) -> u16 {
    let bytes = stats_bytes(entries);
    rig.memory.write_slice(&bytes, GuestAddress(LIST)).unwrap();
    rig.queues[2].add(&[Buffer::Read(LIST, bytes.len() as u32)])
}

#[test]
fn statistics_are_kept_and_refreshed_on_request() {
    let mut rig = rig(STATS_VQ);
    assert!(matches!(rig.device.request_stats(), Err(BalloonError::NoStats)));
    let head = add_stats(&mut rig, &[(4, 1000), (5, 5000), (77, 1)]);
    rig.device.queue_notified(2).unwrap();
    assert_eq!(rig.queues[2].used(), None, "the device keeps the buffer until it wants news");
    let known = GuestStats { free_memory: Some(1000), total_memory: Some(5000), ..GuestStats::default() };
    assert_eq!(rig.device.guest_stats(), known);

    rig.device.request_stats().unwrap();
    assert_eq!(rig.queues[2].used(), Some((head, 0)));
    assert_eq!(rig.interrupt.status(), 1);
    assert!(matches!(rig.device.request_stats(), Err(BalloonError::NoStats)), "one request at a time");
    add_stats(&mut rig, &[(4, 700)]);
    rig.device.queue_notified(2).unwrap();
    assert_eq!(rig.device.guest_stats().free_memory, Some(700));
}

#[test]
fn a_second_statistics_buffer_sends_the_first_one_back() {
    let mut rig = rig(STATS_VQ);
    let first = add_stats(&mut rig, &[(0, 1)]);
    add_stats(&mut rig, &[(0, 2)]);
    rig.device.queue_notified(2).unwrap();
    assert_eq!((rig.queues[2].used(), rig.queues[2].used()), (Some((first, 0)), None));
}

#[test]
fn a_pause_leaves_the_statistics_buffer_in_its_queue() {
    let mut rig = rig(STATS_VQ);
    let head = add_stats(&mut rig, &[(4, 1)]);
    rig.device.queue_notified(2).unwrap();
    rig.device.quiesce().unwrap();
    rig.device.quiesce().unwrap();
    assert!(matches!(rig.device.request_stats(), Err(BalloonError::NoStats)));
    rig.device.queue_notified(2).unwrap();
    rig.device.request_stats().unwrap();
    assert_eq!(rig.queues[2].used(), Some((head, 0)));
}

#[test]
fn targets_show_in_configuration_space_and_the_driver_answers_there() {
    let mut balloon = balloon(true);
    balloon.set_target_mib(3).unwrap();
    balloon.write_config(4, &700u32.to_le_bytes());
    balloon.write_config(0, &[1; 4]);
    balloon.write_config(4, &[1; 2]);
    let mut space = [0xff; 12];
    balloon.read_config(0, &mut space);
    assert_eq!(space[..8], [768u32.to_le_bytes(), 700u32.to_le_bytes()].concat());
    assert_eq!(balloon.state(), BalloonState { target_pages: 768, actual_pages: 700 });
    let message = balloon.set_target_mib(9).unwrap_err().to_string();
    assert!(message.contains("9 MiB") && message.contains("8 MiB"), "{message}");
    assert!(balloon.set_target_mib(u32::MAX).is_err());
    balloon.reset();
    assert_eq!(balloon.state(), BalloonState { target_pages: 768, actual_pages: 0 });
}

#[test]
fn features_follow_the_configuration() {
    let both = DEFLATE_ON_OOM | REPORTING;
    assert_eq!(balloon(false).offered_features() & both, DEFLATE_ON_OOM);
    assert_eq!(balloon(true).offered_features() & both, both);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if hearth_testing::full() { 512 } else { 32 }))]

    /// Exactly the pages that requests name lose their contents.
    #[test]
    fn exactly_the_named_pages_are_dropped(
        requests in proptest::collection::vec(proptest::collection::vec(0..256u32, 1..200), 1..5),
    ) {
        let mut rig = rig(0);
        for request in &requests {
            let pages: Vec<u32> = request.iter().map(|page| FIRST + page).collect();
            add_list(&mut rig, 0, &pages);
            rig.device.queue_notified(0).unwrap();
        }
        for page in 0..256 {
            let named = requests.iter().any(|request| request.contains(&page));
            prop_assert_eq!(first_byte(&rig, FIRST + page), if named { 0 } else { 0xaa }, "page {}", page);
        }
    }

    /// Statistics buffers of any content are read without harm, and the values of known tags are reported.
    #[test]
    fn any_statistics_are_parsed(entries in proptest::collection::vec((0..20u16, any::<u64>()), 0..80), cut in 0..9usize) {
        let mut rig = rig(STATS_VQ);
        let mut bytes = stats_bytes(&entries);
        bytes.truncate(bytes.len().saturating_sub(cut));
        rig.memory.write_slice(&bytes, GuestAddress(LIST)).unwrap();
        rig.queues[2].add(&[Buffer::Read(LIST, bytes.len() as u32)]);
        rig.device.queue_notified(2).unwrap();
        let whole = &entries[..(bytes.len() / 10).min(64)];
        let expected = whole.iter().rev().find(|(tag, _)| *tag == 6).map(|(_, value)| *value);
        prop_assert_eq!(rig.device.guest_stats().available_memory, expected);
    }
}
