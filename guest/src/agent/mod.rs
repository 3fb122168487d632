//! The agent: serves the host's connections (`proto/hearth/guest/v1/agent.proto`).
//!
//! All connections are tasks of one thread. Work that blocks – writing disks back, stopping everything – has threads of its own, and
//! work in other namespaces has processes of its own ([`crate::container`]).
//!
//! ```text
//!   server   accepts, reads Open ──┬── control   requests and responses: app, hooks, identity, power
//!                                  ├── stream    bytes to and from a port of the app
//!                                  ├── exec      a process beside the app, or a tar archive
//!                                  ├── logs      records of the app's lines
//!                                  └── dns       queries of the stub
//!   beside it: the metadata service and the DNS stub, which the app reaches over TCP and UDP
//! ```

mod app;
mod clock;
mod control;
mod exec;
mod freezing;
mod identity;
mod kills;
mod lifecycle;
mod seal;
mod server;
mod shipping;
mod stream;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_proto::guest::v1::{Exited, Network, Process};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use crate::container::spawn::{Namespaces, Spawner};
use crate::generation::Generation;
use crate::refusal::Refusal;
use crate::system::cgroup::Groups;
use crate::system::netlink;
use crate::system::reaper::{Reaper, Scope};
use crate::{dns, init, logs, metadata};

/// Limit of open files if Configure sets none.
const NOFILE: u64 = 1024;
/// Hard limit of open files, unless Configure sets a lower one (the kernel's `fs.nr_open`).
const NOFILE_RAISED: u64 = 1 << 20;

/// The agent: the state that all connections of the host share.
#[derive(Debug)]
pub struct Agent {
    spawner: Spawner,
    logs: Arc<logs::Ring>,
    metadata: Arc<metadata::Store>,
    dns: Arc<dns::Hub>,
    clock: clock::WallClock,
    state: Mutex<State>,
    /// Held while the container or the app is being made, so that each is made once.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    container: Option<Arc<Container>>,
    app: Option<Arc<App>>,
    network: Option<Network>,
    /// The number that changes with each restore; none if its file could not be made.
    generation: Option<Generation>,
}

/// The container, once it is configured.
#[derive(Debug)]
struct Container {
    namespaces: Namespaces,
    /// Control groups of the app and of the processes beside it.
    groups: Groups,
    /// Whether the groups have to be frozen.
    frozen: AtomicBool,
    /// The container's `/dev/pts`, where terminals are made.
    terminals: OwnedFd,
    all_capabilities: bool,
    /// Soft and hard limit of open files.
    nofile: (u64, u64),
    /// Whether the image's own `/etc/hosts` and `/etc/hostname` stay.
    keep_etc: bool,
}

/// The app, once it has been started.
#[derive(Debug)]
struct App {
    /// The app's PID namespace, as long as it runs.
    pids: OwnedFd,
    /// The request that the app was started with.
    process: Process,
    /// The pipes of its output, to see whether all of it was read.
    outputs: [OwnedFd; 2],
    exited: watch::Receiver<Option<Exited>>,
}

impl Agent {
    /// An agent that starts container processes with `program`, which is this binary. Must be called within a runtime.
    ///
    /// # Errors
    /// The signal of terminating children cannot be received.
    pub fn new(program: PathBuf, scope: Scope) -> std::io::Result<Arc<Self>> {
        let spawner = Spawner { program, reaper: Reaper::start(scope)? };
        let logs = Arc::new(logs::Ring::default());
        let (metadata, dns) = (Arc::default(), Arc::default());
        let (state, making) = (Mutex::default(), tokio::sync::Mutex::default());
        let clock = clock::WallClock::default();
        Ok(Arc::new(Self { spawner, logs, metadata, dns, clock, state, making }))
    }

    /// Opens the metadata service and the DNS stub for the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refused a socket or an address; apps run without both services then.
    pub fn open_services(&self) -> std::io::Result<()> {
        let sockets = metadata::network::open()?;
        let metadata = TcpListener::from_std(sockets.metadata)?;
        tokio::spawn(metadata::serve(metadata, Arc::clone(&self.metadata)));
        let udp = UdpSocket::from_std(sockets.dns_udp)?;
        tokio::spawn(dns::serve_udp(udp, Arc::clone(&self.dns)));
        let tcp = TcpListener::from_std(sockets.dns_tcp)?;
        tokio::spawn(dns::serve_tcp(tcp, Arc::clone(&self.dns)));
        Ok(())
    }

    /// Has the app's log say which processes the kernel kills because no memory is left.
    pub fn watch_kills(&self) {
        let ring = Arc::clone(&self.logs);
        tokio::spawn(async move {
            let Err(error) = kills::follow(ring).await;
            init::console(&format!("hearth-guest: processes that are killed are not told of: {error}"));
        });
    }

    /// Has the wall clock follow the host's.
    pub fn keep_clock(self: &Arc<Self>) {
        let agent = Arc::clone(self);
        tokio::spawn(async move {
            let Err(error) = agent.clock.follow().await;
            init::console(&format!("hearth-guest: the wall clock does not follow the host's: {error}"));
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self) -> Result<Arc<Container>, Refusal> {
        let container = self.state().container.clone();
        container.ok_or_else(|| Refusal::invalid("there is no container yet: send Configure first"))
    }

    /// The addresses on which the app may listen: loopback, then the network card's, then IPv6's loopback.
    fn app_hosts(&self) -> Vec<IpAddr> {
        let state = self.state();
        let own = state.network.as_ref().and_then(|network| netlink::parse_address(&network.address).ok());
        let own = own.map(|(address, _)| IpAddr::V4(address));
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        [Some(loopback), own, Some(IpAddr::V6(Ipv6Addr::LOCALHOST))].into_iter().flatten().collect()
    }
}

impl App {
    fn exited(&self) -> Option<Exited> {
        *self.exited.borrow()
    }
}
