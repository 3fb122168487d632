//! Kernel modules in load order: each after those that it depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::programs::{self, Program};
use super::{BaseError, files};

/// Programs that are needed to choose modules.
pub(crate) const PROGRAMS: [Program; 2] = [Program::new("depmod", "kmod"), Program::new("xz", "xz-utils")];

/// The modules of a modular kernel that a guest needs: for its devices, file systems and networks.
pub(crate) const WANTED: [&str; 13] = [
    "virtio_mmio",
    "vmw_vsock_virtio_transport",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "virtio_rng",
    "ext4",
    "crc32c_generic",
    "erofs",
    "overlay",
    "veth",
    "fuse",
    // Needed to reset connections from before a restore.
    "tcp_diag",
];

/// A module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Name of the module, with underscores.
    pub(crate) name: String,
    /// The module's ELF file, decompressed.
    pub(crate) content: Vec<u8>,
}

/// Reads the `wanted` modules of the kernel `release` in `root`, and those that they depend on, in load order.
pub(crate) fn choose(root: &Path, release: &str, wanted: &[&str]) -> Result<Vec<Module>, BaseError> {
    programs::require(&PROGRAMS)?;
    programs::run(programs::command("depmod").arg("--basedir").arg(root).arg(release))?;
    let tree = root.join("lib/modules").join(release);
    let text = |name| files::read(&tree.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let order = load_order(&text("modules.dep")?, &text("modules.builtin")?, wanted)
        .map_err(|reason| BaseError::unusable(&tree, reason))?;
    order.into_iter().map(|(name, path)| Ok(Module { name, content: load(&tree.join(path))? })).collect()
}

/// Names and paths of modules, each after those that it depends on.
fn load_order(dep: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<(String, PathBuf)>, String> {
    let mut needs = BTreeMap::new();
    for (path, others) in dep.lines().filter_map(|line| line.split_once(':')) {
        // depmod lists direct dependencies first, and their own dependencies after them.
        let others: Vec<&str> = others.split_whitespace().rev().collect();
        needs.insert(name(path), (path, others));
    }
    let builtin: BTreeSet<String> = builtin.lines().map(name).collect();
    let mut order: Vec<(String, PathBuf)> = Vec::new();
    for module in wanted {
        let Some((path, others)) = needs.get(*module) else {
            if builtin.contains(*module) {
                continue;
            }
            return Err(format!("there is no module {module}, neither as a file nor built in"));
        };
        for path in others.iter().chain([path]) {
            if !order.iter().any(|(there, _)| *there == name(path)) {
                order.push((name(path), path.into()));
            }
        }
    }
    Ok(order)
}

/// A module's name: the file's without its extensions, with underscores.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn load(path: &Path) -> Result<Vec<u8>, BaseError> {
    match path.extension().and_then(|end| end.to_str()) {
        Some("ko") => files::read(path),
        Some("xz") => programs::run(programs::command("xz").arg("-dc").arg(path)),
        _ => Err(BaseError::unusable(path, "it is compressed in a way that is not known here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a.ko.xz: kernel/b.ko.xz kernel/c-d.ko.xz\nkernel/b.ko.xz: kernel/c-d.ko.xz\n\
                       kernel/c-d.ko.xz:\nkernel/e.ko: kernel/c-d.ko.xz\n";

    #[test]
    fn a_module_comes_after_what_it_needs_and_once() {
        let order = load_order(DEP, "kernel/fs/ext4/ext4.ko\n", &["e", "ext4", "a", "b"]).unwrap();
        let names: Vec<_> = order.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["c_d", "e", "b", "a"]);
        assert_eq!(order[0].1, Path::new("kernel/c-d.ko.xz"));
    }

    #[test]
    fn what_the_kernel_does_not_have_is_named() {
        assert!(load_order(DEP, "", &["ext4"]).unwrap_err().contains("no module ext4"));
    }
}
