//! The attacks.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};

/// Threads of an attack.
const THREADS: u64 = 4;
/// How long a connection may take before the next is begun.
const IMPATIENCE: Duration = Duration::from_millis(2);
/// The DNS server of every microVM.
const DNS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 53, 53)), 53);
/// Queries of a thread that wait for their answers at a time.
const QUERIES: u64 = 64;
/// Bytes of the file that is written, flushed and discarded.
const FLUSHED: u64 = 8 << 20;
/// Bytes of a piece of a file.
const PIECE: usize = 128 << 10;
/// Bytes of the longest line.
const LONGEST_LINE: usize = 1 << 20;

/// What the app does to the host.
#[derive(Clone, Copy)]
pub(crate) enum Attack {
    /// Connections to ever new addresses, of which none is answered.
    Connections,
    /// DNS queries for ever new names.
    Dns,
    /// Small writes, each with a flush, and discards of what was written.
    Flush,
    /// Lines of all lengths, as fast as they are taken.
    Log,
    /// Files until the disk is full, over and over again.
    Disk,
}

/// How often each attack has done its work.
static DONE: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

impl Attack {
    /// The attack of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "connections" => Self::Connections,
            "dns" => Self::Dns,
            "flush" => Self::Flush,
            "log" => Self::Log,
            "disk" => Self::Disk,
            _ => return None,
        })
    }

    /// How often it has done its work.
    pub(crate) fn done(self) -> u64 {
        self.counter().load(Ordering::Relaxed)
    }

    fn counter(self) -> &'static AtomicU64 {
        #[expect(clippy::indexing_slicing, reason = "there is one for each attack")]
        &DONE[self as usize]
    }

    /// Starts the threads. They go on whatever fails.
    pub(crate) fn begin(self) {
        for thread in 0..THREADS {
            thread::spawn(move || {
                let mut chance = Chance(thread + 1);
                loop {
                    match self.once(thread, &mut chance) {
                        Ok(done) => self.counter().fetch_add(done, Ordering::Relaxed),
                        Err(_) => {
                            thread::sleep(IMPATIENCE);
                            continue;
                        }
                    };
                }
            });
        }
    }

    /// Does the work once, and says how much was done.
    fn once(self, thread: u64, chance: &mut Chance) -> io::Result<u64> {
        match self {
            Self::Connections => {
                let address = SocketAddr::from((chance.address(), 443));
                // Its failure is what is expected: nobody is there.
                let _ = TcpStream::connect_timeout(&address, IMPATIENCE);
                Ok(1)
            }
            Self::Dns => ask(chance),
            Self::Flush => flush(thread, chance),
            Self::Log => log(chance),
            Self::Disk => fill(thread),
        }
    }
}

/// Sends queries and takes what answers there are.
fn ask(chance: &mut Chance) -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    for query in 0..QUERIES {
        let mut packet = vec![0, u8::try_from(query).unwrap_or(0), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 16];
        packet.extend(format!("{:016x}", chance.next()).bytes());
        packet.extend(*b"\x04test\x00\x00\x01\x00\x01");
        socket.send_to(&packet, DNS)?;
    }
    let mut answers = 0;
    while answers < QUERIES && socket.recv(&mut [0; 512]).is_ok() {
        answers += 1;
    }
    Ok(answers)
}

fn flush(thread: u64, chance: &mut Chance) -> io::Result<u64> {
    let file = File::options().create(true).truncate(false).write(true).open(format!("/flush-{thread}"))?;
    let place = (chance.next() % FLUSHED) & !4095;
    file.write_all_at(&[1; 4096], place)?;
    file.sync_all()?;
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, place, 4096)?;
    file.sync_all()?;
    Ok(1)
}

fn log(chance: &mut Chance) -> io::Result<u64> {
    let length = if chance.next().is_multiple_of(64) { LONGEST_LINE } else { 80 };
    let mut line = vec![b'l'; length];
    line.push(b'\n');
    io::stdout().lock().write_all(&line)?;
    Ok(1)
}

/// Writes a file until there is no more room, then removes it.
fn fill(thread: u64) -> io::Result<u64> {
    let path = format!("/fill-{thread}");
    let mut file = File::create(&path)?;
    let mut piece = vec![0; PIECE];
    // Bytes that no file system and no device recognises as nothing.
    File::open("/dev/urandom")?.read_exact(&mut piece)?;
    let full = loop {
        if let Err(error) = file.write_all(&piece).and_then(|()| file.sync_data()) {
            break error;
        }
        Attack::Disk.counter().fetch_add(1, Ordering::Relaxed);
    };
    fs::remove_file(&path)?;
    Err(full)
}

/// Numbers that differ: xorshift.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// An address that guests may reach.
    fn address(&mut self) -> Ipv4Addr {
        let [_, _, _, _, _, a, b, c] = self.next().to_be_bytes();
        Ipv4Addr::new(9, a, b, c)
    }
}
