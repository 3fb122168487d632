//! Executes a program, or says why it cannot be executed.
//!
//! The kernel's error is one word for many mistakes: "no such file" of a program that is there, "exec format error" of a script. So a
//! program that was refused is looked at – by its user, within bounds, without waiting for what it may be –, and the message names the
//! file that is at fault and what to do. Messages are for those who have built the container.
//!
//! * [`head`] – what the first bytes of a file say: a script, a program for some processor
//! * [`refusal`] – the message

mod head;
mod refusal;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::refusal::Refusal;

/// Executes the program, which is searched in `path` if its name has no slash. Returns why it cannot be executed.
pub(super) fn execute(program: &str, arguments: &[CString], environment: &[CString], path: &str) -> Refusal {
    let pointers = |texts: &[CString]| {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let mut denied = None;
    for candidate in candidates(program, path) {
        let Ok(text) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
        // SAFETY: the pointers are to strings and to lists of strings that end with a null pointer; all of them live on.
        unsafe { libc::execve(text.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The next folder of PATH may have it.
            Some(libc::ENOENT | libc::ENOTDIR) if candidate.symlink_metadata().is_err() => {}
            Some(libc::EACCES) => drop(denied.get_or_insert((candidate, error))),
            _ => return refusal::explain(&candidate, &error),
        }
    }
    match denied {
        Some((candidate, error)) => refusal::explain(&candidate, &error),
        None if program.contains('/') => {
            Refusal::not_found(format!("no such file: {}", refusal::shown(program)))
        }
        None => Refusal::not_found(format!(
            "no such program: {} is in no folder of PATH ({})",
            refusal::shown(program),
            refusal::shown(path)
        )),
    }
}

/// The files that the program may be.
fn candidates(program: &str, path: &str) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    // An empty folder is the working directory.
    let folders = path.split(':').map(|folder| if folder.is_empty() { "." } else { folder });
    folders.map(|folder| Path::new(folder).join(program)).collect()
}
