//! The DNS servers that are queried.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Most servers that are queried, as in the C library.
pub(super) const MAX: usize = 3;
const CONFIGURATION: &str = "/etc/resolv.conf";
/// Bytes that are read of it.
const LONGEST: u64 = 64 << 10;
/// How often it is checked whether the file is another: the host's servers change with its networks.
const CHECK: Duration = Duration::from_secs(1);
const PORT: u16 = 53;

/// The servers: those of the configuration, or the host's own.
#[derive(Debug)]
pub(super) enum Servers {
    /// Configured ones.
    Configured(Arc<[SocketAddr]>),
    /// Those of a file like `resolv.conf`, which is read when it has changed.
    OfFile {
        /// Path of the file.
        path: PathBuf,
        /// What was read last.
        read: Mutex<Option<Read>>,
    },
}

/// What was read of a file.
#[derive(Debug)]
pub(super) struct Read {
    checked: Instant,
    version: Option<Version>,
    servers: Arc<[SocketAddr]>,
}

/// What changes with a file's content: device, inode, size, time of the last change.
type Version = (u64, u64, u64, (i64, i64));

impl Servers {
    pub(super) fn new(configured: &[SocketAddr]) -> Self {
        match configured {
            [] => Self::of_file(CONFIGURATION.into()),
            some => Self::Configured(some.iter().take(MAX).copied().collect()),
        }
    }

    fn of_file(path: PathBuf) -> Self {
        Self::OfFile { path, read: Mutex::default() }
    }

    /// The servers at this time.
    pub(super) fn now(&self, now: Instant) -> Arc<[SocketAddr]> {
        let (path, read) = match self {
            Self::Configured(servers) => return Arc::clone(servers),
            Self::OfFile { path, read } => (path, read),
        };
        let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = read.as_ref().filter(|read| now < read.checked + CHECK) {
            return Arc::clone(&read.servers);
        }
        // A local file of a few lines: looking at it takes microseconds.
        let version = fs::metadata(path)
            .ok()
            .map(|file| (file.dev(), file.ino(), file.size(), (file.mtime(), file.mtime_nsec())));
        let servers = match read.take().filter(|read| read.version == version) {
            Some(read) => read.servers,
            None => {
                let mut text = String::new();
                // Without a readable file, the server is on this machine, as in the C library.
                let _ = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
                parse(&text).into()
            }
        };
        *read = Some(Read { checked: now, version, servers: Arc::clone(&servers) });
        servers
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok())?
    });
    let mut servers = addresses.take(MAX).map(|address| SocketAddr::new(address, PORT)).collect::<Vec<_>>();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, PORT).into());
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_from_resolv_conf() {
        let text = "# comment\nsearch a.test\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver nonsense\n";
        assert_eq!(parse(text), ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
        let many = "nameserver 192.0.2.1\n".repeat(9);
        assert_eq!(parse(&many).len(), MAX);
        assert_eq!(parse("options edns0\n"), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn the_file_is_read_again_when_it_has_changed_and_not_for_each_query() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let servers = Servers::of_file(path.clone());
        let mut now = Instant::now();
        let mut read = |after: Duration| {
            now += after;
            servers.now(now)
        };
        assert_eq!(*read(Duration::ZERO), ["127.0.0.1:53".parse().unwrap()], "there is no file");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(*read(CHECK / 2), ["127.0.0.1:53".parse().unwrap()]);
        let first = read(CHECK);
        assert_eq!(*first, ["192.0.2.1:53".parse().unwrap()]);
        assert!(Arc::ptr_eq(&first, &read(CHECK)), "the same file is not read again");
        // As resolvers do it: another file takes the name.
        let other = folder.path().join("new");
        fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
        fs::rename(other, path).unwrap();
        assert_eq!(*read(CHECK), ["192.0.2.2:53".parse().unwrap()]);
    }
}
