//! The root disk of the agent's end-to-end tests: an ext4 image with Debian's static busybox and a few users.

use std::env;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Cache, content_key};
use crate::command;
use crate::packages;
use crate::private_apt;

/// Bytes of the file system.
const SIZE: u64 = 96 << 20;
/// Programs of busybox that the tests use.
const PROGRAMS: [&str; 45] = [
    "awk", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "grep", "head",
    "hostname", "id", "ip", "kill", "ls", "mkdir", "mkfifo", "mknod", "mount", "mv", "nc", "nslookup",
    "printf", "ps", "rm", "seq", "sh", "sleep", "sort", "stat", "stty", "sync", "tail", "test", "touch",
    "tr", "true", "tty", "umount", "wc", "wget",
];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv/web:/bin/sh\n";
const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:web\n";
/// What an image may bring along.
const HOSTS: &str = "10.0.0.1 of-the-image\n";
/// Arguments of mke2fs: the guest need not initialise anything later, and everything belongs to root.
const ARGUMENTS: [&str; 10] = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-b",
    "4096",
    "-m",
    "0",
    "-E",
    "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
];

/// The path of the image.
pub(crate) fn image(cache: &Cache) -> Result<PathBuf> {
    packages::ensure(cache, &[packages::program("e2fsprogs", "mke2fs", "makes file systems for guests")])?;
    let busybox = private_apt::fetch(cache, "busybox-static")
        .context("the tests' guests have Debian's static busybox")?;
    let (size, arguments, programs) = (SIZE.to_le_bytes(), ARGUMENTS.join(" "), PROGRAMS.join(" "));
    let texts = [&arguments, &programs, PASSWD, GROUP, HOSTS, &busybox.version].map(str::as_bytes);
    let key = content_key(&[&[&size[..]], &texts[..]].concat());
    let folder = cache.artefact("guest-root", &key, |folder| {
        let root = folder.join("root");
        for name in ["bin", "etc", "srv/web", "tmp"] {
            fs::create_dir_all(root.join(name))?;
        }
        fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777))?;
        fs::copy(busybox.root.join("usr/bin/busybox"), root.join("bin/busybox"))
            .context("the package holds no busybox")?;
        for name in PROGRAMS {
            symlink("busybox", root.join("bin").join(name))?;
        }
        fs::write(root.join("etc/passwd"), PASSWD)?;
        fs::write(root.join("etc/group"), GROUP)?;
        fs::write(root.join("etc/hosts"), HOSTS)?;
        let image = folder.join("image");
        File::create(&image)?.set_len(SIZE)?;
        // mke2fs is only on root's search path.
        let search = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
        let mut mke2fs = Command::new("mke2fs");
        command::run(mke2fs.env("PATH", search).args(ARGUMENTS).arg("-d").arg(&root).arg(&image))?;
        fs::remove_dir_all(&root).context("removing what the image was made of")
    })?;
    Ok(folder.join("image"))
}
