//! Tests that run inside a container: this test binary is copied there.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_proto::guest::v1::{Process, open_exec};

use super::support::{Guest, process};

/// Path of this binary in the container.
const PATH: &str = "/probe/e2e";

/// Copies this binary into the container.
pub(crate) fn copy_to(guest: &Guest) {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name(std::env::current_exe().unwrap(), "e2e").unwrap();
    let mut exec = guest.archive(open_exec::What::UnpackInto("/probe".to_string()));
    exec.send_all(&archive.into_inner().unwrap());
    exec.finish().success("unpacking the probe");
}

/// The command that runs one of the tests below in the container.
pub(crate) fn command(test: &str) -> Process {
    command_of(&format!("probe::{test}"))
}

/// The command that runs this test in the container, by its whole name.
pub(crate) fn command_of(test: &str) -> Process {
    process(&[PATH, "--ignored", "--exact", "--nocapture", "--test-threads=1", test])
}

/// Runs one of the tests below in the container.
pub(crate) fn run(guest: &Guest, test: &str) {
    let said = guest.run(command(test)).success(test);
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "runs in a container"]
fn vsock_is_refused_and_other_sockets_are_not() {
    let socket = |family| {
        // SAFETY: takes no pointer.
        match unsafe { libc::socket(family, libc::SOCK_STREAM, 0) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    assert_eq!(socket(libc::AF_VSOCK).unwrap_err().raw_os_error(), Some(libc::EAFNOSUPPORT));
    socket(libc::AF_INET).unwrap();
    socket(libc::AF_UNIX).unwrap();
}

/// Asks for many names before it reads an answer, over a socket for each, as threads of a program do.
#[test]
#[ignore = "runs in a container"]
fn six_hundred_names_at_once() {
    let ask = |number: u16| {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket.connect(("169.254.53.53", 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // One question with this id: the address of a name of one label.
        let label = format!("n{number:03}");
        let flags_and_counts = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4];
        let query =
            [&number.to_be_bytes()[..], &flags_and_counts, label.as_bytes(), &[0, 0, 1, 0, 1]].concat();
        socket.send(&query).unwrap();
        (number, socket)
    };
    let asked: Vec<_> = (0..600).map(ask).collect();
    let failed = asked.iter().filter_map(|(number, socket)| {
        let mut answer = [0; 512];
        let received = socket.recv(&mut answer);
        let is_answer = received.is_ok() && answer[..2] == number.to_be_bytes() && answer[3] & 15 == 0;
        (!is_answer).then_some((number, received, answer[3] & 15))
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "{} of 600 without an answer: {failed:?}", failed.len());
}

/// Prints lines for ever: the guest's host name, the generation in a mapping of its file, and how many times the file was modified.
#[test]
#[ignore = "runs in a container"]
fn the_generation_each_millisecond() {
    const PATH: &str = "/run/hearth/generation";
    let refused = File::options().write(true).open(PATH).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
    let file = File::open(PATH).unwrap();
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    // SAFETY: the mapping is only read, and stays until the process ends.
    let map = unsafe {
        libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(map, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    let path = CString::new(PATH).unwrap();
    // SAFETY: takes no pointer.
    let watch = unsafe { libc::inotify_init1(libc::IN_NONBLOCK) };
    // SAFETY: the pointer is to a string that lives until the call returns.
    assert!(watch >= 0 && unsafe { libc::inotify_add_watch(watch, path.as_ptr(), libc::IN_MODIFY) } >= 0);
    // SAFETY: nobody else has this descriptor.
    let mut watch = unsafe { File::from_raw_fd(watch) };
    let mut events = 0;
    loop {
        events += match watch.read(&mut [0; 16]) {
            Ok(16) => 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            other => panic!("{other:?}"),
        };
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        // SAFETY: the mapping has as many bytes; whoever writes them does so while this process is frozen.
        let text = unsafe { std::slice::from_raw_parts(map.cast::<u8>(), length) }.to_vec();
        let text = String::from_utf8(text).unwrap();
        println!("seen {} {} {events}", name.trim(), text.strip_suffix('\n').unwrap());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Prints lines for ever: the guest's host name, its time, and a random number.
#[test]
#[ignore = "runs in a container"]
fn a_line_each_millisecond() {
    let (mut output, mut chance) = (io::stdout().lock(), File::open("/dev/urandom").unwrap());
    loop {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let mut random = [0; 8];
        chance.read_exact(&mut random).unwrap();
        writeln!(output, "tick {} {time} {:016x}", name.trim(), u64::from_ne_bytes(random)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}
