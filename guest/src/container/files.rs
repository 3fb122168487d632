//! Files of the container that the platform writes, where the image has none.
//!
//! `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname` are written into the root itself, not mounted over it, so that programs
//! can replace them as on any machine. A file with content in the image is kept: its author wants it. A symbolic link that leads
//! nowhere counts as missing (Debian's `resolv.conf` may lead to a service that does not run here).

use std::fs;
use std::io;
use std::path::Path;

use crate::dns;

/// Writes the files that are missing. A root that cannot be written stays as it is.
///
/// # Errors
/// The file system failed.
pub fn write_missing(root: &Path, hostname: &str) -> io::Result<()> {
    let folder = root.join("etc");
    let resolver = format!("nameserver {}\n", dns::ADDRESS);
    let hosts =
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n");
    let hosts = if hostname == "localhost" { hosts.replace("127.0.1.1\tlocalhost\n", "") } else { hosts };
    let result = fs::create_dir_all(&folder).and_then(|()| {
        [("resolv.conf", resolver), ("hosts", hosts), ("hostname", format!("{hostname}\n"))]
            .iter()
            .try_for_each(|(name, content)| write(&folder.join(name), content))
    });
    match result {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        result => result,
    }
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() || metadata.len() > 0 => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        },
        Err(error) => return Err(error),
    }
    fs::write(path, content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_missing_is_written_and_what_is_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join("etc").join(name);
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink("/run/nothing/here", path("resolv.conf")).unwrap();
        fs::write(path("hosts"), "127.0.0.1 mine\n").unwrap();
        fs::write(path("hostname"), "").unwrap();
        write_missing(root.path(), "box").unwrap();
        assert_eq!(fs::read_to_string(path("resolv.conf")).unwrap(), "nameserver 169.254.53.53\n");
        assert_eq!(fs::read_to_string(path("hosts")).unwrap(), "127.0.0.1 mine\n");
        assert_eq!(fs::read_to_string(path("hostname")).unwrap(), "box\n");
    }
}
