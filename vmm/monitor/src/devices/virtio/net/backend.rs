//! The backend of a network card: the descriptor through which packets are received and sent.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
};

use super::HEADER_LEN;

/// Feature bit: the guest accepts packets without a checksum.
pub(super) const GUEST_CSUM: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM;
/// Feature bits: the guest accepts TCP packets that are longer than a segment, over IPv4 and over IPv6.
pub(super) const GUEST_TSO4: u64 = 1 << VIRTIO_NET_F_GUEST_TSO4;
pub(super) const GUEST_TSO6: u64 = 1 << VIRTIO_NET_F_GUEST_TSO6;

/// Kind of a backend's descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A tap interface, attached with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    Tap,
    /// A datagram or sequenced-packet socket whose peer uses the same format.
    #[cfg(any(test, feature = "testing"))]
    Socket,
}

/// A descriptor that transfers one packet, with its 12-byte virtio header, per system call.
#[derive(Debug)]
pub(super) struct Backend {
    file: File,
    kind: Kind,
}

impl Backend {
    /// Prepares `file` for use: makes it non-blocking and sets the header's length on a tap.
    ///
    /// # Errors
    /// The error of `fcntl` or `ioctl`; `ENOTTY` and `EBADFD` mean that the file is not an attached tap.
    pub(super) fn new(file: File, kind: Kind) -> io::Result<Self> {
        let fd = file.as_raw_fd();
        // SAFETY: the descriptor is open, and neither command takes a pointer.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        // SAFETY: as above.
        if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if kind == Kind::Tap {
            let length = libc::c_int::try_from(HEADER_LEN).unwrap_or_default();
            // SAFETY: this command reads one integer, which lives across the call.
            if unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const length) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { file, kind })
    }

    /// Sets the offloads of a tap: whether the guest accepts packets without a checksum, or longer than a segment.
    ///
    /// # Errors
    /// The error that `ioctl` returns.
    pub(super) fn set_offloads(&self, features: u64) -> io::Result<()> {
        if self.kind != Kind::Tap {
            return Ok(());
        }
        let mut offloads = 0;
        // Segmentation offload requires checksum offload (5.1.3.1), and the kernel refuses it alone.
        if features & GUEST_CSUM != 0 {
            offloads |= libc::TUN_F_CSUM;
            for (feature, offload) in [(GUEST_TSO4, libc::TUN_F_TSO4), (GUEST_TSO6, libc::TUN_F_TSO6)] {
                if features & feature != 0 {
                    offloads |= offload;
                }
            }
        }
        // SAFETY: this command takes its argument by value.
        let result =
            unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads one packet into `buffers`, of which there are at most 1,024; bytes that do not fit are cut off.
    ///
    /// # Errors
    /// The error of `readv`; [`io::ErrorKind::WouldBlock`] when there is no packet, also after a signal.
    ///
    /// # Safety
    /// Every buffer is mapped writable, and no Rust reference to it exists.
    pub(super) unsafe fn read(&self, buffers: &[libc::iovec]) -> io::Result<usize> {
        let count = libc::c_int::try_from(buffers.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the caller guarantees that the buffers are valid.
        moved(unsafe { libc::readv(self.file.as_raw_fd(), buffers.as_ptr(), count) })
    }

    /// Sends the packet in `buffers`, of which there are at most 1,024.
    ///
    /// # Errors
    /// The error of `writev`; [`io::ErrorKind::WouldBlock`] when there is no room, also after a signal.
    ///
    /// # Safety
    /// Every buffer is mapped readable.
    pub(super) unsafe fn write(&self, buffers: &[libc::iovec]) -> io::Result<usize> {
        let count = libc::c_int::try_from(buffers.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the caller guarantees that the buffers are valid.
        moved(unsafe { libc::writev(self.file.as_raw_fd(), buffers.as_ptr(), count) })
    }
}

fn moved(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| {
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => io::ErrorKind::WouldBlock.into(),
            _ => error,
        }
    })
}

impl AsFd for Backend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
