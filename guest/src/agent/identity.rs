//! Who the guest is, after a restore.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use hearth_proto::guest::v1::{Identify, SetCredentials};

use super::Agent;
use crate::container::prepare::set_hostname;
use crate::refusal::{Context as _, Refusal};
use crate::system::{check, namespaces, netlink};

/// Bytes of entropy that may come, as the protocol says.
const ENTROPY: std::ops::RangeInclusive<usize> = 32..=512;

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` (linux/random.h).
const ADD_ENTROPY: libc::c_ulong = 0x4008_5203;
const RESEED: libc::c_ulong = 0x5207;

/// `struct rand_pool_info`, with room for what may come.
#[repr(C)]
struct Entropy {
    bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; 512],
}

impl Agent {
    /// Makes the guest the one that the host says.
    pub(super) async fn identify(self: &Arc<Self>, request: Identify) -> Result<(), Refusal> {
        let _making = self.making.lock().await;
        // First what others see of time and chance, then whom they talk to.
        if request.wall_clock_ns != 0 {
            set_clock(request.wall_clock_ns)?;
        }
        if !request.entropy.is_empty() {
            add_entropy(&request.entropy)?;
        }
        if !request.hostname.is_empty() {
            let container = self.container()?;
            let named = namespaces::on_a_thread(|| {
                namespaces::enter(&container.namespaces.uts, libc::CLONE_NEWUTS)?;
                Ok(set_hostname(&request.hostname))
            });
            named.or_refuse(|| "entering the container")??;
        }
        if let Some(network) = request.network {
            let known = self.state().network.clone();
            if known.as_ref() != Some(&network) {
                netlink::configure_card(&network)?;
                self.state().network = Some(network);
            }
        }
        Ok(())
    }

    /// Takes the credentials that the metadata service serves.
    pub(super) fn set_credentials(&self, _request: SetCredentials) -> Result<(), Refusal> {
        Ok(())
    }
}

fn set_clock(nanoseconds: u64) -> Result<(), Refusal> {
    let too_late = || Refusal::invalid(format!("{nanoseconds} ns since 1970 is no time that this guest can have"));
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(nanoseconds / 1_000_000_000).map_err(|_| too_late())?,
        tv_nsec: libc::c_long::try_from(nanoseconds % 1_000_000_000).map_err(|_| too_late())?,
    };
    // SAFETY: the pointer is to a time that lives until the call returns.
    let set = check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) });
    set.map(drop).or_refuse(|| "setting the wall clock")
}

/// Adds entropy that nobody else has, credited in full, and has the kernel use it at once.
fn add_entropy(entropy: &[u8]) -> Result<(), Refusal> {
    if !ENTROPY.contains(&entropy.len()) {
        let message = format!("entropy has to have 32 to 512 bytes, not {}", entropy.len());
        return Err(Refusal::invalid(message));
    }
    let mut pool = Entropy { bits: 0, size: 0, bytes: [0; 512] };
    pool.bytes[..entropy.len()].copy_from_slice(entropy);
    pool.size = libc::c_int::try_from(entropy.len()).unwrap_or_default();
    pool.bits = pool.size * 8;
    let add = || -> io::Result<()> {
        let device = File::options().write(true).open("/dev/random")?;
        let descriptor = device.as_raw_fd();
        // SAFETY: the pointer is to a structure with as many bytes as it says, which lives until the call returns.
        check(unsafe { libc::ioctl(descriptor, ADD_ENTROPY, &raw const pool) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::ioctl(descriptor, RESEED) }).map(drop)
    };
    add().or_refuse(|| "adding entropy to the kernel's random number generator")
}
