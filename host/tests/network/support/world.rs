//! The host of a test: its thread's own network and mount namespaces, so that the machine's are not touched.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use hearth_host::network::{Egress, NetworkConfig, Networks};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Capture, Guest, run};

/// A host with the address 203.0.113.2 on its uplink, whose router is the internet, and with the network 192.0.2.0/24.
pub(crate) struct World;

impl World {
    /// An address of the host in the internet.
    pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
    /// A server in the internet.
    pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

    /// Makes the host; `None` if this machine lacks something, which is reported, and is an error on the metal.
    pub(crate) fn new() -> Option<Self> {
        if let Some(missing) = Self::missing() {
            hearth_testing::skip(&format!("this machine lacks {missing}"));
            return None;
        }
        run("ip link set lo up");
        run("ip netns add internet");
        run("ip link add wan type veth peer name wan netns internet");
        run("ip addr add 203.0.113.2/24 dev wan");
        run("ip link set wan up");
        run("ip route add default via 203.0.113.1");
        run("ip link add lan type veth peer name lan-port");
        run("ip addr add 192.0.2.1/24 dev lan");
        run("ip link set lan up");
        run("ip -n internet link set lo up");
        run("ip -n internet link set wan up");
        run("ip -n internet addr add 203.0.113.1/24 dev wan");
        for address in ["198.51.100.7", "10.99.0.1", "10.20.30.40", "169.254.169.254"] {
            run(&format!("ip -n internet addr add {address}/32 dev lo"));
        }
        // A route to microVMs, for senders that know their addresses.
        run("ip -n internet route add 100.64.0.0/10 via 203.0.113.2");
        Some(Self)
    }

    /// What is missing on this machine; none means that this thread has its own namespaces now.
    fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("root".into());
        }
        for tool in ["nft", "ip"] {
            let paths = std::env::var_os("PATH").unwrap_or_default();
            if !std::env::split_paths(&paths).any(|folder| folder.join(tool).exists()) {
                return Some(format!("the program {tool}"));
            }
        }
        if !Path::new("/dev/net/tun").exists() {
            return Some("/dev/net/tun".into());
        }
        let own = hearth_sys::new_network_namespace().and_then(|()| {
            hearth_sys::new_mount_namespace()?;
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
            Ok(mount("run", "/run", "tmpfs", MountFlags::empty(), None)?)
        });
        own.err().map(|error| format!("the right to make namespaces ({error})"))
    }

    /// The networks of this host.
    pub(crate) fn networks(&self) -> Networks {
        self.networks_with(NetworkConfig::default())
    }

    pub(crate) fn networks_with(&self, config: NetworkConfig) -> Networks {
        Networks::open(config, Some(1)).unwrap()
    }

    /// A microVM's network with a guest in it.
    pub(crate) fn guest(&self, networks: &Networks, name: &str) -> Guest {
        Guest::new(networks.create(name, Egress::Internet).unwrap())
    }

    /// Captures all packets that arrive in the internet from now on.
    pub(crate) fn capture(&self) -> Capture {
        Self::within("internet", || Capture::open("wan"))
    }

    /// Runs `work` in a namespace.
    pub(crate) fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
        let file = fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        thread::scope(|scope| {
            let inside = || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            };
            scope.spawn(inside).join().unwrap()
        })
    }

    /// The interfaces of microVMs in the host.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let text = run("ip -o link show");
        let names = text.lines().filter_map(|line| line.split([':', '@']).nth(1));
        names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("hearth-")).collect()
    }

    /// Packets that were dropped by those rules of the host's table that contain `words`.
    pub(crate) fn dropped(&self, words: &str) -> u64 {
        let rules = run("nft list table inet hearth");
        let lines = rules.lines().filter(|line| line.contains(words) && line.trim_end().ends_with("drop"));
        let counts =
            lines.filter_map(|line| line.split("packets ").nth(1)?.split(' ').next()?.parse::<u64>().ok());
        let counts = counts.collect::<Vec<_>>();
        assert_eq!(counts.len(), 1, "one rule with `{words}`:\n{rules}");
        counts[0]
    }
}
