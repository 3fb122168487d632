//! The normal work of a monitor's threads, which no filter may prevent.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hearth_vmm_jail::{ThreadRole, Walls};
use io_uring::{IoUring, opcode, types};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket as _;
use vmm_sys_util::timerfd::TimerFd;

/// Requests of a vCPU's own thread.
const VCPU_REQUESTS: [libc::c_ulong; 8] =
    [0xae80, 0x4010_aeab, 0x4010_aeac, 0xc008_aeb0, 0x8004_ae98, 0x4004_ae99, 0x8040_ae9f, 0x4040_aea0];
const KVM_CREATE_VM: libc::c_ulong = 0xae01;
/// Queries which pages were written (Linux, include/uapi/linux/fs.h).
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const TUN_REQUESTS: [libc::c_ulong; 2] = [0x4004_54d0, 0x4004_54d8];

/// A ring for a disk, as the control thread makes it for a device.
pub(crate) struct Ring {
    ring: IoUring,
    event: EventFd,
}

impl Ring {
    pub(crate) fn make(disk: &File) -> Self {
        let ring = IoUring::new(8).unwrap();
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        ring.submitter().register_files(&[disk.as_raw_fd()]).unwrap();
        ring.submitter().register_eventfd(event.as_raw_fd()).unwrap();
        Self { ring, event }
    }

    fn work(&mut self) {
        let data = b"through the ring";
        let write = opcode::Write::new(types::Fixed(0), data.as_ptr(), 16).offset(512).build();
        // SAFETY: `data` outlives the request, which is waited for.
        unsafe { self.ring.submission().push(&write) }.unwrap();
        self.ring.submit_and_wait(1).unwrap();
        assert_eq!(self.ring.completion().next().unwrap().result(), 16);
        // SAFETY: no memory is involved.
        unsafe { self.ring.submission().push(&opcode::Fsync::new(types::Fixed(0)).build()) }.unwrap();
        self.ring.submit_and_wait(1).unwrap();
        assert_eq!(self.ring.completion().next().unwrap().result(), 0);
        assert!(self.event.read().unwrap() >= 1);
    }
}

/// Does the work of `role` with `disk`, an empty file, and its ring. Returns "fine"; a violation kills the process.
pub(crate) fn work(role: ThreadRole, disk: &File, mut ring: Ring, walls: &Walls) -> String {
    runtime();
    if role == ThreadRole::Memory {
        memory(disk, walls);
        return "fine".into();
    }
    sockets();
    file(disk);
    ring.work();
    events();
    TUN_REQUESTS.iter().for_each(|request| request_not_for_null(*request));
    if role != ThreadRole::Device {
        VCPU_REQUESTS.iter().for_each(|request| request_not_for_null(*request));
    }
    if role != ThreadRole::Vcpu {
        let listener = UnixListener::from(walls.control.try_clone().unwrap());
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        listener.set_nonblocking(false).unwrap();
        wait_for_events();
    }
    if role == ThreadRole::Control {
        control(walls);
    }
    "fine".into()
}

/// Sends a request to `/dev/null`'s driver, which does not know it.
fn request_not_for_null(request: libc::c_ulong) {
    // SAFETY: stdin is /dev/null, which has no requests and touches no argument.
    assert_eq!(unsafe { libc::ioctl(0, request, 0) }, -1);
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ENOTTY), "{request:#x}");
}

/// Memory in all sizes, allocated and freed in this thread; locks, time, randomness.
fn runtime() {
    // This comes first, while the allocator's thresholds are low: a heap of this thread grows and shrinks again.
    drop((0..4000).map(|_| vec![1; 1000]).collect::<Vec<Vec<u8>>>());
    for size in [100, 10_000, 200_000, 1 << 20] {
        let mut blocks: Vec<Vec<u8>> = (0..4).map(|_| vec![1; size]).collect();
        blocks.iter_mut().for_each(|block| block.resize(size * 2, 2));
    }
    let pair = Arc::new((Mutex::new(()), Condvar::new()));
    let guard = pair.0.lock().unwrap();
    drop(pair.1.wait_timeout(guard, Duration::from_micros(1)).unwrap());
    std::thread::yield_now();
    assert!(Instant::now().elapsed() < Duration::MAX);
    let mut random = [0_u8; 16];
    // SAFETY: the buffer is valid for its length.
    assert_eq!(unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) }, 16);
    // SAFETY: signal 0 to this very thread only checks whether a signal could be sent.
    assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), 0) }, 0);
}

fn sockets() {
    let (mut one, mut other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    assert!(one.take_error().unwrap().is_none());
    one.write_all(b"hello").unwrap();
    let mut buffer = [0; 5];
    other.read_exact(&mut buffer).unwrap();
    let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).unwrap();
    one.send_with_fd(&b"x"[..], event.as_raw_fd()).unwrap();
    let (_, received) = other.recv_with_fd(&mut buffer).unwrap();
    received.unwrap().write_all(&1_u64.to_ne_bytes()).unwrap();
    assert_eq!(event.read().unwrap(), 1);
    one.shutdown(std::net::Shutdown::Both).unwrap();
}

fn file(disk: &File) {
    disk.set_len(1 << 20).unwrap();
    disk.write_all_at(b"block", 4096).unwrap();
    let mut block = [0; 5];
    disk.read_exact_at(&mut block, 4096).unwrap();
    assert_eq!(&block, b"block");
    let buffers = [io::IoSlice::new(b"vec"), io::IoSlice::new(b"tor")];
    let mut at_start = disk.try_clone().unwrap();
    assert_eq!(at_start.write_vectored(&buffers).unwrap(), 6);
    disk.sync_data().unwrap();
    disk.sync_all().unwrap();
    assert_eq!(disk.metadata().unwrap().len(), 1 << 20);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::fallocate(disk.as_raw_fd(), punch, 0, 1 << 20) }, 0);
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::lseek(disk.as_raw_fd(), 0, libc::SEEK_HOLE) }, 0);
}

/// Creating events, as a device does when it is activated.
fn events() {
    let mut timer = TimerFd::new().unwrap();
    timer.reset(Duration::from_secs(3600), None).unwrap();
    assert!(timer.is_armed().unwrap());
    timer.clear().unwrap();
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let epoll = Epoll::new().unwrap();
    for (operation, interest) in [
        (ControlOperation::Add, EventSet::IN),
        (ControlOperation::Modify, EventSet::IN | EventSet::OUT),
        (ControlOperation::Delete, EventSet::empty()),
    ] {
        epoll.ctl(operation, event.as_raw_fd(), EpollEvent::new(interest, 1)).unwrap();
    }
}

fn wait_for_events() {
    let epoll = Epoll::new().unwrap();
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    event.write(1).unwrap();
    let interest = EpollEvent::new(EventSet::IN, 4);
    epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest).unwrap();
    let mut seen = [EpollEvent::default()];
    assert_eq!((epoll.wait(-1, &mut seen).unwrap(), seen[0].data()), (1, 4));
}

extern "C" fn kicked(_signal: libc::c_int) {}

/// Reading and writing guest memory from and to files, and querying which pages were written.
fn memory(disk: &File, walls: &Walls) {
    use std::os::unix::fs::FileExt as _;
    disk.write_all_at(&[1; 4096], 8192).unwrap();
    let mut page = [0; 4096];
    disk.read_exact_at(&mut page, 8192).unwrap();
    let (mut from, mut to) = (8192, 0);
    // SAFETY: the offsets live across the call.
    let copied = unsafe {
        libc::copy_file_range(disk.as_raw_fd(), &raw mut from, disk.as_raw_fd(), &raw mut to, 4096, 0)
    };
    assert_eq!(copied, 4096);
    // SAFETY: no pointers are involved.
    assert_eq!(unsafe { libc::lseek(disk.as_raw_fd(), 0, libc::SEEK_DATA) }, 0);
    assert_eq!(disk.metadata().unwrap().len(), 12_288);
    disk.sync_all().unwrap();
    drop(disk.try_clone().unwrap());
    // SAFETY: no pointers are involved.
    assert_eq!(unsafe { libc::posix_fadvise(disk.as_raw_fd(), 0, 4096, libc::POSIX_FADV_WILLNEED) }, 0);
    // Layers of a disk are merged on this thread, too.
    // SAFETY: no pointers are involved.
    assert_eq!(unsafe { libc::sync_file_range(disk.as_raw_fd(), 0, 4096, libc::SYNC_FILE_RANGE_WRITE) }, 0);
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointers are involved.
    assert_eq!(unsafe { libc::fallocate(disk.as_raw_fd(), hole, 0, 4096) }, 0);
    // SAFETY: the kernel refuses a null pointer, and a request that it does not know.
    assert_eq!(unsafe { libc::ioctl(walls.pagemap.as_raw_fd(), PAGEMAP_SCAN, 0) }, -1);
    [0xc028_aa03, 0xc020_aa04, 0x8010_aa02].iter().for_each(|request| request_not_for_null(*request));
}

/// The work of the control thread: a KVM request, a signal to a thread, reading the page map, starting threads.
fn control(walls: &Walls) {
    request_not_for_null(KVM_CREATE_VM);
    let handler: extern "C" fn(libc::c_int) = kicked;
    // SAFETY: the handler does nothing, so it may run anywhere.
    let before = unsafe { libc::signal(libc::SIGRTMIN(), handler as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
    // SAFETY: a signal with a handler, to this thread.
    assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGRTMIN()) }, 0);
    let mut entry = [0; 8];
    walls.pagemap.read_exact_at(&mut entry, 0).unwrap();
    let children: Vec<_> = (0..3).map(|number| std::thread::spawn(move || number)).collect();
    let sum: u32 = children.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(sum, 3);
}
