//! Tests that run inside a container: this test binary is copied there.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
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
    process(&[PATH, "--ignored", "--exact", "--nocapture", "--test-threads=1", &format!("probe::{test}")])
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
