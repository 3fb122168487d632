//! A registry with the images that projects begin with, at an address that guests may reach.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The registry's network: a namespace behind a router of the host, as the internet is. Its addresses are for documentation (RFC 5737), so
/// that they are nobody's.
const NAMESPACE: &str = "registry";
const ADDRESS: &str = "198.51.100.10";
const PORT: u16 = 5000;
/// How long the registry may take to listen.
const START: Duration = Duration::from_secs(120);

/// Debian's registry on a read-only store; dropped, it ends, and its network goes.
pub(crate) struct Registry {
    process: Option<Child>,
    store: PathBuf,
    log: PathBuf,
}

impl Registry {
    /// Mounts the store, makes the network and starts the registry there.
    pub(crate) fn start(folder: &Path) -> Self {
        let store = folder.join("registry");
        fs::create_dir_all(&store).unwrap();
        let mut registry = Self { process: None, store, log: folder.join("registry.log") };
        registry.clear();
        let disk =
            Path::new(&std::env::var_os("HEARTH_DISKS").expect("the folder of disks")).join("registry");
        let mount = |options: &str| {
            try_run(&format!("mount -t erofs -o {options} {} {}", disk.display(), registry.store.display()))
        };
        assert!(mount("ro") || mount("ro,loop"), "the registry's disk cannot be mounted");
        make_network();

        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
             maintenance: {{uploadpurging: {{enabled: false}}, readonly: {{enabled: true}}}}\nhttp: {{addr: '{ADDRESS}:{PORT}'}}\n",
            registry.store.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", NAMESPACE, "docker-registry", "serve"]).arg(&config);
        // Each request is a line of its output. `ip` becomes the registry.
        command.stdin(Stdio::null()).stdout(File::create(&registry.log).unwrap());
        registry.process = Some(command.spawn().expect("ip, of Debian's package iproute2"));
        let begin = Instant::now();
        while TcpStream::connect((ADDRESS, PORT)).is_err() {
            assert!(begin.elapsed() < START, "the registry does not listen");
            thread::sleep(Duration::from_millis(100));
        }
        registry
    }

    /// Its URL for the configuration.
    pub(crate) fn mirror(&self) -> String {
        format!("http://{ADDRESS}:{PORT}")
    }

    /// Whether a request's path had this in it.
    pub(crate) fn was_asked_for(&self, what: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().lines().any(|line| line.contains(what))
    }

    /// Removes what an earlier test has left.
    fn clear(&self) {
        try_run(&format!("ip netns del {NAMESPACE}"));
        try_run("ip link del registry0");
        try_run(&format!("umount {}", self.store.display()));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill(); // it may have ended by itself
            let _ = process.wait();
        }
        self.clear();
    }
}

/// Makes the namespace, and a default route of the host that leads to its router: guests reach only what such routes lead to. It comes after
/// the host's own, and the registry's address has a route by the same way.
fn make_network() {
    run(&format!("ip netns add {NAMESPACE}"));
    run(&format!("ip link add registry0 type veth peer name registry1 netns {NAMESPACE}"));
    run("ip addr add 192.0.2.1/30 dev registry0");
    run("ip link set registry0 up");
    for line in [
        "addr add 192.0.2.2/30 dev registry1".to_owned(),
        format!("addr add {ADDRESS}/32 dev lo"),
        "link set lo up".to_owned(),
        "link set registry1 up".to_owned(),
        "route add default via 192.0.2.1".to_owned(),
    ] {
        run(&format!("ip -n {NAMESPACE} {line}"));
    }
    run("ip route add default via 192.0.2.2 dev registry0 metric 32000");
    run(&format!("ip route add {ADDRESS}/32 via 192.0.2.2 dev registry0"));
}

fn run(line: &str) {
    assert!(try_run(line), "`{line}` failed");
}

fn try_run(line: &str) -> bool {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
