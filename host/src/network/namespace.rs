//! Named network namespaces, as `ip netns` makes them: bind mounts below `/run/netns`.
//!
//! A thread stays in a namespace that it has entered, so all work in a namespace is done on a new thread ([`on_thread`]), which
//! exits afterwards.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::system;
use super::{MAX_NAME, NetworkError, PREFIX};

/// Folder of the namespaces' names.
const FOLDER: &str = "/run/netns";
/// The namespace of the thread that opens it.
const OWN: &str = "/proc/thread-self/ns/net";

/// Runs `work` on a new thread, which may enter namespaces, and waits for it.
pub(super) fn on_thread<T: Send>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send,
) -> Result<T, NetworkError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("network".into())
            .spawn_scoped(scope, work)
            .map_err(system("start a thread"))?;
        thread.join().unwrap_or_else(|_| {
            Err(NetworkError::System {
                what: "finish the work in a namespace".into(),
                source: io::Error::other("panic"),
            })
        })
    })
}

/// Makes [`FOLDER`] a shared mount, as `ip netns` does, so that names which are removed here disappear in all mount namespaces.
pub(super) fn prepare_folder() -> Result<(), NetworkError> {
    fs::create_dir_all(FOLDER).map_err(system(format!("create {FOLDER}")))?;
    let folder = File::open(FOLDER).map_err(system(format!("open {FOLDER}")))?;
    // `ip netns` takes this lock, too: two processes at once would stack mounts on each other.
    folder.lock().map_err(system(format!("lock {FOLDER}")))?;
    let shared = || mount_change(FOLDER, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    match shared() {
        Err(Errno::INVAL) => mount_bind_recursive(FOLDER, FOLDER).and_then(|()| shared()),
        result => result,
    }
    .map_err(|error| system(format!("make {FOLDER} a shared mount"))(error.into()))
}

/// The names of Hearth's namespaces, without the prefix.
pub(super) fn names() -> Result<Vec<String>, NetworkError> {
    let failed = || system(format!("read {FOLDER}"));
    let mut names = Vec::new();
    for entry in fs::read_dir(FOLDER).map_err(failed())? {
        let entry = entry.map_err(failed())?.file_name();
        if let Some(name) = entry.to_str().and_then(|name| name.strip_prefix(PREFIX))
            && is_name(name)
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain)
}

/// The name of a namespace, which may exist or not.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    pub(super) fn named(name: &str) -> Result<Self, NetworkError> {
        if !is_name(name) {
            return Err(NetworkError::Name(name.chars().take(2 * MAX_NAME).collect()));
        }
        Ok(Self { name: name.to_owned() })
    }

    /// The name of the namespace, without the prefix.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(format!("{PREFIX}{}", self.name))
    }

    /// Puts this thread into a new namespace of this name.
    pub(super) fn make(&self) -> Result<(), NetworkError> {
        let path = self.path();
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .map_err(system(format!("create {}", path.display())))?;
        hearth_sys::new_network_namespace().map_err(system("make a network namespace"))?;
        mount_bind(OWN, &path).map_err(|error| system(format!("mount {}", path.display()))(error.into()))
    }

    /// Puts this thread into the namespace; false when there is none of this name.
    pub(super) fn enter(&self) -> Result<bool, NetworkError> {
        let path = self.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(system(format!("open {}", path.display()))(error)),
        };
        match move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
            Ok(()) => Ok(true),
            // A plain file: the process that made it was killed before the mount.
            Err(Errno::INVAL) => Ok(false),
            Err(error) => Err(system(format!("enter the namespace {}", path.display()))(error.into())),
        }
    }

    /// Removes the name; the namespace is destroyed when nothing uses it any more.
    pub(super) fn unlink(&self) -> Result<(), NetworkError> {
        let path = self.path();
        loop {
            match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // Once more: another mount may lie below.
                Ok(()) => {}
                Err(Errno::INVAL) => break,
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(system(format!("unmount {}", path.display()))(error.into())),
            }
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(system(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

/// The namespace of this thread.
pub(super) fn own() -> Result<File, NetworkError> {
    File::open(OWN).map_err(system(format!("open {OWN}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_folder() {
        for name in ["", ".", "..", "a/b", "a b", "a\n", "a.b", &"x".repeat(41)] {
            assert!(matches!(Namespace::named(name), Err(NetworkError::Name(_))), "{name:?}");
        }
        let namespace = Namespace::named("0abcdef0-1234_Z").unwrap();
        assert_eq!(namespace.path(), Path::new("/run/netns/hearth-0abcdef0-1234_Z"));
    }
}
