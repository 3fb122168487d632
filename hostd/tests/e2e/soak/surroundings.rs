//! A disk of its own for the daemon, which can be filled without harm, and a network that leads nowhere.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::fs::statvfs;

use crate::support::site::Site;

/// Size of the disk: more than the disk of a guest, and no more than is written of it is taken of the memory.
const DISK: &str = "size=12g";
/// The servers that the host asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The server of this test.
const SERVER: &str = "127.0.0.53:53";

/// What the test has changed on the metal; dropped, it is as before.
pub(super) struct Surroundings {
    site: &'static Site,
    resolv_conf: Option<Vec<u8>>,
    route: String,
}

impl Surroundings {
    /// Makes them.
    pub(super) fn make(site: &Site) -> Self {
        let folder = PathBuf::from("/tmp/soak");
        let _ = fs::remove_dir_all(&folder);
        let site: &'static Site = Box::leak(Box::new(Site { folder, ..site.clone() }));
        fs::create_dir_all(site.data()).unwrap();
        run(&format!("mount -t tmpfs -o mode=755,{DISK} soak {}", site.data().display()));

        // Whatever leaves the host here is taken by a neighbour that does not exist.
        let route = run("ip route show default");
        run("ip link add soak0 type veth peer name soak1");
        run("ip addr add 192.0.2.1/30 dev soak0");
        for end in ["soak0", "soak1"] {
            run(&format!("ip link set {end} up"));
        }
        run("ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev soak0");
        run("ip route replace default via 192.0.2.2 dev soak0");

        let resolv_conf = fs::read(RESOLV_CONF).ok();
        fs::write(RESOLV_CONF, "nameserver 127.0.0.53\n").unwrap();
        let server = UdpSocket::bind(SERVER).unwrap();
        thread::spawn(move || serve(&server));
        Self { site, resolv_conf, route: route.trim().to_owned() }
    }

    /// Makes the disk so small that it has this many bytes free.
    pub(super) fn leave(&self, free: u64) {
        let space = statvfs(self.site.data()).unwrap();
        let size = (space.f_blocks - space.f_bfree) * space.f_frsize + free;
        run(&format!("mount -o remount,size={size} {}", self.site.data().display()));
    }

    /// The daemon's folders and programs.
    pub(super) fn site(&self) -> &'static Site {
        self.site
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        if let Some(text) = &self.resolv_conf {
            let _ = fs::write(RESOLV_CONF, text);
        }
        let mut lines = vec!["ip link del soak0".to_owned()];
        lines.extend((!self.route.is_empty()).then(|| format!("ip route replace {}", self.route)));
        lines.push(format!("umount {}", self.site.data().display()));
        for line in lines {
            let _ = try_run(&line);
        }
    }
}

/// Says of every name that it does not exist, until the process ends.
fn serve(server: &UdpSocket) {
    let mut packet = [0; 512];
    loop {
        match server.recv_from(&mut packet) {
            Ok((length @ 12.., from)) => {
                // A response, "no such name".
                packet[2] |= 0x80;
                packet[3] = 0x83;
                let _ = server.send_to(&packet[..length], from);
            }
            Ok(_) => {}
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn run(line: &str) -> String {
    let (succeeded, said) = try_run(line);
    assert!(succeeded, "{line}: {said}");
    said
}

fn try_run(line: &str) -> (bool, String) {
    let mut words = line.split(' ');
    let output =
        Command::new(words.next().unwrap()).args(words).current_dir(Path::new("/")).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
