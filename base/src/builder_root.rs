//! The builder's root disk: an unpacked Debian with `buildah`, and the files that the packages' scripts would have made.

use std::path::Path;

use super::debian::{self, Package, State};
use super::recipe::{Recipe, Sources};
use super::store::{self, Store};
use super::{BaseError, Progress, erofs, files};

/// UUID of the file system. Nothing uses it, but it must be the same in every build.
const UUID: &str = "68656172-7468-4275-8000-000000000001";

/// Paths that no build needs: tests and examples of buildah, network plug-ins (builds use the guest's network directly), and
/// short names that stand for other registries than Docker's.
const REMOVED: [&str; 8] = [
    "usr/libexec/buildah",
    "usr/lib/cni",
    "usr/share/doc",
    "usr/share/gitweb",
    "usr/lib/systemd",
    "etc/containers/registries.conf.d",
    "etc/systemd",
    "boot",
];
/// Folders that are made for mounts.
const MOUNT_POINTS: [&str; 11] =
    ["dev", "proc", "sys", "run", "mnt", "root", "tmp", "var/tmp", "var/lib/hearth", "hearth", "srv"];

/// Files in addition to the packages' own.
const FILES: [(&str, &str); 8] = [
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/hostname", "builder\n"),
    ("etc/resolv.conf", ""),
    // Builds of Dockerfiles do not verify signatures, but digests and TLS.
    ("etc/containers/policy.json", "{ \"default\": [{ \"type\": \"insecureAcceptAnything\" }] }\n"),
    ("etc/containers/registries.conf", REGISTRIES),
    ("etc/containers/storage.conf", STORAGE),
    ("etc/containers/containers.conf", CONTAINERS),
];

/// Short names stand for Docker's registry, as Dockerfiles expect. Those of container bases resolve only to the images in the
/// builder's own storage. Their aliases are appended.
const REGISTRIES: &str =
    "unqualified-search-registries = [\"docker.io\"]\nshort-name-mode = \"permissive\"\n\n[aliases]\n";

/// The storage of images is on a separate disk, and that of the container bases on another one.
const STORAGE: &str = r#"[storage]
driver = "overlay"
graphroot = "/var/lib/hearth/storage"
runroot = "/run/hearth/storage"

[storage.options]
additionalimagestores = ["/hearth"]
"#;

/// The capabilities are Docker's; features that need systemd or a kernel keyring are off.
const CONTAINERS: &str = r#"[containers]
default_capabilities = [
  "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
  "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "AUDIT_WRITE",
]
keyring = false
netns = "host"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
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
    complete(root, recipe)?;
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
fn complete(root: &Path, recipe: &Recipe) -> Result<(), BaseError> {
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
    let mut registries = REGISTRIES.to_owned();
    for base in &recipe.containers {
        registries.push_str(&format!("\"{0}\" = \"localhost/{0}\"\n", base.name));
    }
    files::write(&root.join("etc/containers/registries.conf"), registries)?;
    write_certificates(root)?;
    // An empty store, so that it is no error if the disk with the container bases is not mounted.
    Store::default().finish(&root.join(store::MOUNT_POINT.trim_start_matches('/')))?;
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
        complete(root, &Recipe::own().unwrap()).unwrap();
        let text = |path: &str| String::from_utf8(files::read(&root.join(path)).unwrap()).unwrap();
        assert_eq!(text("etc/ssl/certs/ca-certificates.crt"), "first\nsecond\n");
        assert_eq!(text("bin/sh"), "a shell of its own");
        assert!(root.join("usr/bin/awk").is_symlink() && root.join("sbin").is_symlink());
        assert!(
            text("etc/containers/registries.conf")
                .contains("\"hearth/debian\" = \"localhost/hearth/debian\"")
        );
    }
}
