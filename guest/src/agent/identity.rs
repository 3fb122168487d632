//! The guest's identity after a restore.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use hearth_proto::guest::v1::{Identify, Network, SetCredentials};

use super::Agent;
use super::seal::SealKey;
use crate::container::files;
use crate::container::prepare::set_hostname;
use crate::metadata::SecretCredentials;
use crate::refusal::{Context as _, Refusal};
use crate::system::{check, namespaces, netlink};
use crate::{dns, metadata};

/// Bytes of entropy in one request (`Identify.entropy` of the protocol).
const ENTROPY: std::ops::RangeInclusive<usize> = 32..=512;

/// Digits of a machine id (machine-id(5)).
const MACHINE_ID: usize = 32;

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` (linux/random.h).
const ADD_ENTROPY: libc::c_ulong = 0x4008_5203;
const RESEED: libc::c_ulong = 0x5207;

/// `struct rand_pool_info`, with room for the most entropy that a request carries.
#[repr(C)]
struct Entropy {
    bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; 512],
}

impl Agent {
    /// Gives the guest the identity that the host sends.
    pub(super) async fn identify(&self, mut request: Identify) -> Result<(), Refusal> {
        let credentials = request.credentials.take().map(SecretCredentials::new);
        let _making = self.making.lock().await;
        // First the clock and the entropy, then the names and peers that depend on them.
        if request.wall_clock_ns != 0 {
            let too_late = |_| {
                let time = request.wall_clock_ns;
                Refusal::invalid(format!("{time} ns since 1970 is no time that this guest can have"))
            };
            let time = i64::try_from(request.wall_clock_ns).map_err(too_late)?;
            self.clock.set(time).or_refuse(|| "setting the wall clock")?;
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
        if !request.machine_id.is_empty() {
            self.write_own_files(&request.hostname, &request.machine_id)?;
        }
        reset_connections().or_refuse(|| "resetting TCP connections to other hosts")?;
        if let Some(network) = request.network {
            let known = self.state().network.clone();
            if known.as_ref() != Some(&network) {
                netlink::configure_card(&network)?;
                self.set_network(Some(network));
            }
        }
        if let Some(metadata) = request.metadata {
            self.metadata.set_metadata(metadata);
        }
        self.metadata.set_id(request.microvm_id);
        self.metadata.set_credentials(credentials);
        if let Some(generation) = &mut self.state().generation {
            generation.advance().or_refuse(|| "writing the generation")?;
        }
        // The app is thawed with its new identity. A guest that has just booted has no app yet.
        self.thaw()
    }

    /// Writes the files of the container that say which machine it is.
    fn write_own_files(&self, hostname: &str, machine_id: &str) -> Result<(), Refusal> {
        if machine_id.len() != MACHINE_ID || !machine_id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Refusal::invalid(format!(
                "{machine_id:?} is no machine id: it has 32 hexadecimal digits"
            )));
        }
        if hostname.is_empty() {
            return Err(Refusal::invalid("a machine id comes with a host name"));
        }
        let container = self.container()?;
        let written = namespaces::on_a_thread(|| {
            // Root and working folder of a thread are all threads' unless it leaves them.
            namespaces::leave(libc::CLONE_FS)?;
            namespaces::enter(&container.namespaces.mount, libc::CLONE_NEWNS)?;
            files::write_own(Path::new("/"), hostname, machine_id, container.keep_etc)
        });
        written.or_refuse(|| "writing files to the container's /etc")
    }

    /// Takes the credentials that the metadata service serves. The key is used up by sealed ones.
    pub(super) fn set_credentials(
        &self,
        request: SetCredentials,
        key: &mut Option<SealKey>,
    ) -> Result<(), Refusal> {
        let mut credentials = request.credentials.map(SecretCredentials::new);
        if !request.sealed.is_empty() {
            let missing =
                || Refusal::invalid("there is no key for sealed credentials: send MakeSealKey for each");
            credentials = Some(key.take().ok_or_else(missing)?.open(&request.sealed)?);
        }
        self.metadata.set_credentials(credentials);
        Ok(())
    }

    /// Records how the network card is configured.
    pub(super) fn set_network(&self, network: Option<Network>) {
        let address = network.as_ref().and_then(|network| netlink::parse_address(&network.address).ok());
        self.metadata.set_address(address.map(|(address, _)| address));
        self.state().network = network;
    }
}

/// Resets the connections to other hosts, which know nothing of this guest any more. Connections over loopback, to the guest's own
/// addresses or to the agent's services stay.
fn reset_connections() -> io::Result<()> {
    let is_local =
        |address: IpAddr| address.is_loopback() || address == metadata::ADDRESS || address == dns::ADDRESS;
    let is_foreign = |source, destination| !is_local(destination) && source != destination;
    netlink::Connections::open()?.reset(is_foreign).map(drop)
}

/// Adds entropy that no other guest has, credited in full, and has the kernel reseed its generator at once.
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
        // SAFETY: the pointer is to a structure with as many bytes as its size field contains, which lives until the call returns.
        check(unsafe { libc::ioctl(descriptor, ADD_ENTROPY, &raw const pool) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::ioctl(descriptor, RESEED) }).map(drop)
    };
    add().or_refuse(|| "adding entropy to the kernel's random number generator")
}
