//! Fuzzes the vsock device with a hostile driver, and with a host that answers: a broker that accepts even ports,
//! sockets that echo, and clients that connect to the guest.
#![no_main]

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use hearth_vmm::devices::virtio::testing::fuzz_device;
use hearth_vmm::devices::virtio::vsock::{Broker, Vsock};
use hearth_vmm::devices::virtio::queue::QueueState;
use hearth_vmm::devices::virtio::{Activation, DeviceError, DeviceType, VirtioDevice};
use hearth_vmm_api::config::VsockConfig;
use libfuzzer_sys::fuzz_target;

/// The smallest context id that a guest may have. A fuzzer finds it easily.
const GUEST_CID: u32 = 3;

/// The device and the host's ends of its streams. The streams are served whenever the device has run.
struct Served {
    device: Vsock,
    broker: Broker,
    hosts: Vec<UnixStream>,
}

impl Served {
    fn new() -> std::io::Result<Self> {
        let address = SocketAddr::from_abstract_name(format!("hearth-fuzz-vsock-{}", std::process::id()))?;
        let listener = UnixListener::bind_addr(&address)?;
        let mut hosts = Vec::new();
        for greeting in [&b"CONNECT 1\nhello"[..], b"CONNECT 2\n", b"CONN", b"nonsense\n"] {
            let mut client = UnixStream::connect_addr(&address)?;
            client.set_nonblocking(true)?;
            client.write_all(greeting)?;
            hosts.push(client);
        }
        let (broker, theirs) = Broker::pair()?;
        let config = VsockConfig { guest_cid: GUEST_CID, listener: Some(listener), broker: Some(theirs) };
        let device = Vsock::new(config).map_err(std::io::Error::other)?;
        Ok(Self { device, broker, hosts })
    }

    /// Answers the pending requests and echoes what the guest has sent.
    fn serve(&mut self) -> std::io::Result<()> {
        let mut poll = libc::pollfd { fd: self.broker.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives across the call.
        while unsafe { libc::poll(&raw mut poll, 1, 0) } == 1 {
            let Some(request) = self.broker.next()? else { break };
            if request.port() % 2 == 1 {
                request.refuse()?;
                continue;
            }
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            request.accept(&theirs)?;
            self.hosts.push(ours);
        }
        let mut data = [0; 4096];
        self.hosts.retain_mut(|host| match host.read(&mut data) {
            Ok(0) => false,
            Ok(count) => host.write(&data[..count]).is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        Ok(())
    }
}

impl VirtioDevice for Served {
    fn device_type(&self) -> DeviceType {
        self.device.device_type()
    }
    fn queue_max_sizes(&self) -> &[u16] {
        self.device.queue_max_sizes()
    }
    fn offered_features(&self) -> u64 {
        self.device.offered_features()
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.device.activate(activation)
    }
    fn reset(&mut self) {
        self.device.reset();
    }
    fn queue_notified(&mut self, queue: usize) -> Result<(), DeviceError> {
        self.device.queue_notified(queue)?;
        self.serve().map_err(DeviceError::backend("serving the host's side"))
    }
    fn event(&mut self, token: u16, events: u32) -> Result<(), DeviceError> {
        self.device.event(token, events)?;
        self.serve().map_err(DeviceError::backend("serving the host's side"))
    }
    fn queue_states(&self) -> Vec<Option<QueueState>> {
        self.device.queue_states()
    }
    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.device.counters()
    }
}

fuzz_target!(|data: &[u8]| {
    let served = Served::new().expect("the host has descriptors left");
    fuzz_device(served, data);
});
