//! Recording a working set: which pages a restored guest touches, and in which order.
//!
//! Guest memory is anonymous and empty at first. Whichever thread touches a page of it (a vCPU, a device, or the kernel
//! on their behalf) waits while the recorder's thread notes the page and copies its content from the snapshot's files
//! (userfaultfd, Linux, Documentation/admin-guide/mm/userfaultfd.rst). The page tables cannot be used instead, because
//! the kernel also maps neighbours of a page that is touched.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use hearth_vmm_jail::{Filters, ThreadRole};
use vmm_sys_util::eventfd::EventFd;

use super::load::{self, Backing, LoadError, Source, address};
use super::pages::{self, Range};
use super::runs::Run;
use super::working_set::WorkingSet;
use super::{PAGE, PAGE_BYTES};
use crate::memory::GuestMemory;

// Requests and structures of include/uapi/linux/userfaultfd.h.
const USERFAULTFD_IOC_NEW: u64 = 0xaa00;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_WAKE: u64 = 0x8010_aa02;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
const UFFD_API: u64 = 0xaa;
const REGISTER_MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
/// Size of `struct uffd_msg` in bytes.
const MESSAGE: usize = 32;
/// Maximum number of messages that one call reads.
const BATCH: usize = 16;
/// Stack size of the thread in bytes.
const STACK: usize = 128 << 10;

/// The reason for which a working set cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A system call on the host failed.
    #[error("recording the working set: {what}: {source}; it takes /dev/userfaultfd, opened read-write")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The error that the host returned.
        source: io::Error,
    },
    /// Guest memory cannot be used.
    #[error(transparent)]
    Memory(#[from] LoadError),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> RecordError {
    move |source| RecordError::Io { what, source }
}

/// The pages that were touched so far, in order.
#[derive(Debug, Default)]
struct Touched {
    order: Vec<u64>,
    known: HashSet<u64>,
}

/// The recorder. Dropping it stops the thread; nothing may touch guest memory after that.
#[derive(Debug)]
pub struct Recorder {
    touched: Arc<Mutex<Touched>>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

/// The part of the recorder that its thread owns.
struct Server {
    uffd: OwnedFd,
    stop: EventFd,
    range: Range,
    backing: Arc<Backing>,
    touched: Arc<Mutex<Touched>>,
    /// Keeps the memory of `range` mapped.
    _memory: GuestMemory,
}

fn ioctl<T>(fd: libc::c_int, request: u64, argument: *mut T) -> io::Result<()> {
    // SAFETY: every caller passes the structure that `request` takes.
    let result = unsafe { libc::ioctl(fd, request, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Recorder {
    /// Starts to record. `device` is `/dev/userfaultfd`; `memory` is empty, and `backing` provides its content.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn start(
        device: &File,
        memory: &GuestMemory,
        backing: Arc<Backing>,
        filters: &Filters,
    ) -> Result<Self, RecordError> {
        let range = load::range_of(memory)?;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the request takes flags and no pointer; the result is checked before it is owned.
        let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) };
        if fd < 0 {
            return Err(failed("making a userfaultfd")(io::Error::last_os_error()));
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        let uffd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = [UFFD_API, 0, 0];
        ioctl(fd, UFFDIO_API, api.as_mut_ptr()).map_err(failed("agreeing on userfaultfd's interface"))?;
        let mut register = [range.start as u64, range.bytes as u64, REGISTER_MODE_MISSING, 0];
        ioctl(fd, UFFDIO_REGISTER, register.as_mut_ptr()).map_err(failed("registering guest memory"))?;
        let stop =
            EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(failed("making an eventfd"))?;
        let touched = Arc::new(Mutex::new(Touched::default()));
        let server = Server {
            uffd,
            stop: stop.try_clone().map_err(failed("duplicating an eventfd"))?,
            range,
            backing,
            touched: Arc::clone(&touched),
            _memory: memory.clone(),
        };
        let filters = filters.clone();
        let serve = move || {
            if filters.install(ThreadRole::Memory).is_ok() {
                // Without this thread, every thread that touches a new page waits forever, so the process is useless:
                // abort.
                if let Err(error) = server.serve() {
                    eprintln!("hearth-vmm: recording the working set: {error}");
                    std::process::abort();
                }
            }
        };
        let thread = thread::Builder::new().name("record".into()).stack_size(STACK).spawn(serve);
        Ok(Self { touched, stop, thread: Some(thread.map_err(failed("starting the recorder"))?) })
    }

    /// Returns the number of pages that were touched so far.
    #[must_use]
    pub fn touched(&self) -> u64 {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).order.len() as u64
    }

    /// Returns the pages that were touched so far and are not zero in the snapshot. A page counts as written if its
    /// content differs from that in the snapshot. The machine must be paused.
    ///
    /// # Errors
    /// Fails when the snapshot's files cannot be read.
    pub fn working_set(&self, memory: &GuestMemory, backing: &Backing) -> Result<WorkingSet, RecordError> {
        let range = load::range_of(memory)?;
        let order = self.touched.lock().unwrap_or_else(PoisonError::into_inner).order.clone();
        let mut set = WorkingSet::default();
        let mut content = [0; PAGE_BYTES];
        for page in order {
            let Source::File(file) = backing.source(page) else { continue };
            file.read_exact_at(&mut content, page * PAGE).map_err(failed("reading the snapshot's memory"))?;
            // SAFETY: the page is guest memory, which stays mapped; if it were discarded meanwhile, the read would
            // fault it in again.
            let same = unsafe { pages::is_equal(address(range, Run { first: page, pages: 1 }), &content) };
            set.push(page, !same);
        }
        Ok(set)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.stop.write(1); // the write fails only when the event is signalled already
        if let Some(thread) = self.thread.take() {
            drop(thread.join()); // the thread does not panic
        }
    }
}

impl Server {
    fn serve(&self) -> io::Result<()> {
        let mut messages = [0_u8; MESSAGE * BATCH];
        let mut content = [0_u8; PAGE_BYTES];
        loop {
            let wait = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut waits = [wait(self.uffd.as_raw_fd()), wait(self.stop.as_raw_fd())];
            // SAFETY: two entries, which live across the call; no signal mask and no timeout.
            let ready = unsafe { libc::ppoll(waits.as_mut_ptr(), 2, std::ptr::null(), std::ptr::null()) };
            if ready < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            // SAFETY: the buffer is ours, and its length is passed.
            let got =
                unsafe { libc::read(self.uffd.as_raw_fd(), messages.as_mut_ptr().cast(), messages.len()) };
            match usize::try_from(got) {
                Ok(got) => {
                    for message in messages.as_chunks::<MESSAGE>().0.iter().take(got / MESSAGE) {
                        self.handle(message, &mut content)?;
                    }
                }
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {
                    let [_, stop] = waits;
                    if stop.revents != 0 {
                        return Ok(());
                    }
                }
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
    }

    fn handle(&self, message: &[u8; MESSAGE], content: &mut [u8; PAGE_BYTES]) -> io::Result<()> {
        let [event, .., _, _, _, _, _, _, _, _] = *message;
        if event != EVENT_PAGEFAULT {
            return Ok(());
        }
        let address =
            message.get(16..24).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        let address = address / PAGE * PAGE;
        let page = address.wrapping_sub(self.range.start as u64) / PAGE;
        {
            let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
            if touched.known.insert(page) {
                touched.order.push(page);
            }
        }
        let (request, mut arguments) = match self.backing.source(page) {
            Source::File(file) => {
                file.read_exact_at(content, page * PAGE)?;
                (UFFDIO_COPY, [address, content.as_ptr() as u64, PAGE, 0, 0])
            }
            Source::Zero => (UFFDIO_ZEROPAGE, [address, PAGE, 0, 0, 0]),
        };
        loop {
            match ioctl(self.uffd.as_raw_fd(), request, arguments.as_mut_ptr()) {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                // The page is there already; only the threads that wait for it must be woken.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    let mut range = [address, PAGE];
                    return ioctl(self.uffd.as_raw_fd(), UFFDIO_WAKE, range.as_mut_ptr());
                }
                result => return result,
            }
        }
    }
}
