//! The builder's root disk: an unpacked Debian with `dockerd`, whose BuildKit builds, and the files that the packages' scripts would have made.

use std::path::Path;

use super::debian::{self, Package, State};
use super::recipe::{Recipe, Sources};
use super::{BaseError, Progress, erofs, files};

/// UUID of the file system. Nothing uses it, but it must be the same in every build.
const UUID: &str = "68656172-7468-4275-8000-000000000001";

/// Paths that no build needs: programs for containers that run on their own (BuildKit starts `runc` itself), their networks (builds use
/// the guest's directly), servers of Git, tools for developers, and all of Perl but its smallest set.
const REMOVED: [&str; 33] = [
    "usr/bin/ctr",
    "usr/bin/git-shell",
    "usr/bin/scalar",
    "usr/lib/git-core/git-daemon",
    "usr/lib/git-core/git-http-backend",
    "usr/lib/git-core/git-http-push",
    "usr/lib/git-core/git-imap-send",
    "usr/lib/git-core/git-shell",
    "usr/lib/git-core/scalar",
    "usr/lib/aarch64-linux-gnu/engines-3",
    "usr/bin/containerd-shim-runc-v2",
    "usr/bin/containerd-stress",
    "usr/lib/containerd",
    "usr/lib/cni",
    "usr/lib/aarch64-linux-gnu/gconv",
    "usr/lib/aarch64-linux-gnu/perl",
    "usr/lib/aarch64-linux-gnu/systemd",
    "usr/lib/systemd",
    "usr/sbin/docker-proxy",
    "usr/sbin/pidfd-kill",
    "usr/sbin/recvtty",
    "usr/sbin/remap-rootfs",
    "usr/sbin/sd-helper",
    "usr/sbin/seccompagent",
    "usr/sbin/fs-idmap",
    "usr/sbin/contrib",
    "usr/share/doc",
    "usr/share/docker.io",
    "usr/share/gitweb",
    "usr/share/iptables",
    "usr/share/perl",
    "etc/systemd",
    "boot",
];
/// Folders that are made for mounts.
const MOUNT_POINTS: [&str; 11] =
    ["dev", "proc", "sys", "run", "mnt", "root", "tmp", "var/tmp", "var/lib/hearth", "hearth", "srv"];

/// Files in addition to the packages' own.
const FILES: [(&str, &str); 5] = [
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/hostname", "builder\n"),
    ("etc/resolv.conf", ""),
    ("etc/docker/daemon.json", DAEMON),
];

/// Configuration of `dockerd`: everything that it keeps lies on a separate disk, and steps use the guest's network. Nothing is collected
/// while a build runs: the script that ends it does so.
const DAEMON: &str = r#"{
  "data-root": "/var/lib/hearth/docker",
  "exec-root": "/run/docker",
  "group": "root",
  "storage-driver": "overlay2",
  "features": { "containerd-snapshotter": false },
  "bridge": "none",
  "iptables": false,
  "ip6tables": false,
  "ip-forward": false,
  "userland-proxy": false,
  "log-level": "warn",
  "builder": { "gc": { "enabled": false } }
}
"#;

/// Makes the file system `image` from `recipe`; `root` is the folder in which it is assembled. Returns its packages.
pub(crate) fn make(
    image: &Path,
    root: &Path,
    (recipe, sources): (&Recipe, &Sources),
    progress: Progress<'_>,
) -> Result<Vec<Package>, BaseError> {
    progress("builder's root disk: downloading and unpacking packages");
    let own = (&recipe.of_builder(), sources);
    let made = debian::make_root(root, &recipe.builder, State::Unpacked, own, progress)?;
    for path in REMOVED {
        files::remove(&root.join(path))?;
    }
    merge_usr(root)?;
    complete(root)?;
    progress("builder's root disk: making the file system");
    erofs::make(image, root, UUID, recipe.generated_files_date)?;
    files::remove(root)?;
    Ok(made.packages)
}

/// Adds to a root the links from `/bin`, `/sbin` and `/lib` to `/usr` that every Debian has.
pub(crate) fn merge_usr(root: &Path) -> Result<(), BaseError> {
    for name in ["bin", "sbin", "lib"] {
        if root.join(name).symlink_metadata().is_err() {
            files::create_folder(&root.join("usr").join(name))?;
            files::link(&root.join(name), &format!("usr/{name}"))?;
        }
    }
    Ok(())
}

/// Makes the files that the scripts of the unpacked packages would have made.
fn complete(root: &Path) -> Result<(), BaseError> {
    let dev = root.join("dev");
    files::remove(&dev)?;
    for path in MOUNT_POINTS {
        files::create_folder(&root.join(path))?;
    }
    for name in ["passwd", "group"] {
        let master = files::read(&root.join(format!("usr/share/base-passwd/{name}.master")))?;
        files::write(&root.join("etc").join(name), master)?;
    }
    for (path, content) in FILES {
        files::write(&root.join(path), content)?;
    }
    write_certificates(root)?;
    for (name, target) in [("awk", "mawk"), ("sh", "dash"), ("which", "which.debianutils")] {
        let link = root.join("usr/bin").join(name);
        if link.symlink_metadata().is_err() {
            files::link(&link, target)?;
        }
    }
    Ok(())
}

/// The bundle of all certificates, as `update-ca-certificates` makes it.
fn write_certificates(root: &Path) -> Result<(), BaseError> {
    let folder = root.join("usr/share/ca-certificates/mozilla");
    let mut bundle = Vec::new();
    for path in files::entries(&folder)? {
        bundle.extend_from_slice(&files::read(&path)?);
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    if bundle.is_empty() {
        return Err(BaseError::unusable(&folder, "it holds no certificates"));
    }
    files::write(&root.join("etc/ssl/certs/ca-certificates.crt"), bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_root_is_completed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for (path, content) in [
            ("usr/share/base-passwd/passwd.master", "root:*:0:0:root:/root:/bin/bash\n"),
            ("usr/share/base-passwd/group.master", "root:*:0:\n"),
            ("usr/share/ca-certificates/mozilla/b.crt", "second"),
            ("usr/share/ca-certificates/mozilla/a.crt", "first\n"),
            ("usr/bin/sh", "a shell of its own"),
        ] {
            files::write(&root.join(path), content).unwrap();
        }
        merge_usr(root).unwrap();
        complete(root).unwrap();
        let text = |path: &str| String::from_utf8(files::read(&root.join(path)).unwrap()).unwrap();
        assert_eq!(text("etc/ssl/certs/ca-certificates.crt"), "first\nsecond\n");
        assert_eq!(text("bin/sh"), "a shell of its own");
        assert!(root.join("usr/bin/awk").is_symlink() && root.join("sbin").is_symlink());
        let daemon: serde_json::Value = serde_json::from_str(&text("etc/docker/daemon.json")).unwrap();
        assert_eq!(daemon["storage-driver"], "overlay2");
    }
}
