//! What runs inside a container: this test binary, which is copied there.

use std::io;

use hearth_proto::guest::v1::open_exec;

use super::support::{Guest, process};

/// Where it is in the container.
const PATH: &str = "/probe/e2e";

/// Copies this binary into the container.
pub(crate) fn copy_to(guest: &Guest) {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name(std::env::current_exe().unwrap(), "e2e").unwrap();
    let mut exec = guest.archive(open_exec::What::UnpackInto("/probe".to_string()));
    exec.send_all(&archive.into_inner().unwrap());
    exec.finish().success("unpacking the probe");
}

/// Runs one of the tests below in the container.
pub(crate) fn run(guest: &Guest, test: &str) {
    let test = format!("probe::{test}");
    let finished = guest.run(process(&[PATH, "--ignored", "--exact", &test, "--test-threads=1"]));
    let said = finished.success(&test);
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
