//! Opens a tap interface by name. The process that starts a microVM does this; the monitor receives the descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

const TUN_DEVICE: &str = "/dev/net/tun";

/// Why a tap could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is not valid for a network interface.
    #[error("tap name {0:?} is no interface name: give 1 to 15 bytes without '/', ':', '%' and white space")]
    Name(String),
    /// The host has no tun driver, or this process may not use it.
    #[error(
        "cannot open {TUN_DEVICE} for tap {name}: {source}; load the module `tun` and run with access to the device"
    )]
    Open {
        /// Name of the interface.
        name: String,
        /// Error from the host.
        source: io::Error,
    },
    /// The interface is not a free tap of the right kind.
    #[error("cannot attach to tap {name}: {source}; {hint}")]
    Attach {
        /// Name of the interface.
        name: String,
        /// Error from the host.
        source: io::Error,
        /// Advice that the error message gives to the user.
        hint: &'static str,
    },
}

/// Attaches to the tap interface `name` so that packets carry a virtio header. The interface either exists already
/// (`ip tuntap add`) or is created now, and then lives as long as the descriptor.
///
/// # Errors
/// [`TapError`], which names the interface and advises what to do.
pub fn open_tap(name: &str) -> Result<File, TapError> {
    let mut request = request(name).ok_or_else(|| TapError::Name(name.to_owned()))?;
    let tap = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN_DEVICE);
    let tap = tap.map_err(|source| TapError::Open { name: name.to_owned(), source })?;
    // SAFETY: this command reads and writes the request, which lives across the call.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        let source = io::Error::last_os_error();
        let hint = match source.raw_os_error() {
            Some(libc::EBUSY) => "another process is attached to it: give every microVM a tap of its own",
            Some(libc::EPERM) => "make it beforehand with `ip tuntap add NAME mode tap user USER vnet_hdr`",
            _ => "it must be a tap with `vnet_hdr` and without `multi_queue`",
        };
        return Err(TapError::Attach { name: name.to_owned(), source, hint });
    }
    Ok(tap)
}

/// The request for `TUNSETIFF`; `None` when the kernel would reject `name` or treat it as a pattern.
fn request(name: &str) -> Option<libc::ifreq> {
    let forbidden = |byte: u8| matches!(byte, b'/' | b':' | b'%' | 0) || byte.is_ascii_whitespace();
    if name.is_empty() || matches!(name, "." | "..") || name.bytes().any(forbidden) {
        return None;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: libc::c_short::try_from(flags).ok()? };
    let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru };
    // The last byte stays zero.
    let (room, _) = request.ifr_name.split_at_mut_checked(libc::IFNAMSIZ - 1)?;
    for (to, from) in room.get_mut(..name.len())?.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_refused_before_the_kernel_sees_them() {
        for name in ["", ".", "..", "tap%d", "a/b", "a b", "a:b", "sixteen-bytes-xx", "nul\0"] {
            let message = open_tap(name).unwrap_err().to_string();
            assert!(message.contains(&format!("{name:?}")), "{message}");
        }
        assert!(request("fifteen-bytes-x").is_some());
    }

    #[test]
    fn the_request_names_the_interface_and_asks_for_virtio_headers() {
        let request = request("tap0").unwrap();
        assert_eq!(
            request.ifr_name[..5].iter().map(|byte| byte.to_ne_bytes()[0]).collect::<Vec<_>>(),
            b"tap0\0"
        );
        // SAFETY: the request was made with flags.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        assert_eq!(flags, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
    }

    /// Opens a tap where the test process may create interfaces; elsewhere checks that the error names the interface.
    #[test]
    fn a_tap_opens_or_the_error_says_what_to_do() {
        match open_tap("hearth-test0") {
            Ok(tap) => {
                let length: libc::c_int = 12;
                // SAFETY: this command reads one integer, which lives across the call.
                let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) };
                assert_eq!(set, 0);
                assert!(matches!(open_tap("hearth-test0"), Err(TapError::Attach { .. })));
            }
            Err(error) => assert!(error.to_string().contains("hearth-test0"), "{error}"),
        }
    }
}
