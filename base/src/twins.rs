//! Configures an arm64 root on other architectures in seconds instead of minutes.
//!
//! Most of the time is not spent in the packages' scripts but in the emulator, which starts anew for each of the thousands of small
//! programs that they run. These programs do the same on every architecture. So while the scripts run, each program of the
//! root is replaced by its *twin*: the same program of the same Debian for this machine. The scripts, the files that they read
//! and the `dpkg` that runs them are the root's own; `dpkg` is emulated, because it must identify itself as arm64's. Afterwards the
//! root's programs are moved back, and files that depend on the root's own libraries (`ld.so.cache`) are generated again.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::bootstrap::{self, Bootstrap};
use super::recipe::{Recipe, Sources};
use super::{BaseError, Progress, emulation, files, programs};

/// Architectures with known twins: the kernel's and Debian's name, and the folders of their libraries, which arm64 does not have.
const ARCHITECTURES: [(&str, &str, [&str; 2]); 1] =
    [("x86_64", "amd64", ["usr/lib/x86_64-linux-gnu", "usr/lib64"])];
/// Folders of programs and of the files that they load.
const FOLDERS: [&str; 4] = ["usr/bin", "usr/sbin", "usr/lib", "usr/libexec"];
/// Folder of arm64's libraries, which its own programs still load.
const OWN_LIBRARIES: &str = "usr/lib/aarch64-linux-gnu";
/// Link to the folder of the programs' dynamic loader.
const LOADER: (&str, &str) = ("lib64", "usr/lib64");
/// Folder at which the twins' `dpkg` sees a root.
const TARGET: &str = "target";
/// ELF's magic number; the next constant is the offset of the machine's number in an ELF file.
const ELF: &[u8] = b"\x7fELF";
const MACHINE: usize = 18;
/// EM_AARCH64 (ELF for the Arm 64-bit Architecture, section 5.2).
const AARCH64: u16 = 183;

/// Unpacks packages: `sh -c SCRIPT sh TWINS ROOT PACKAGES`. The order does not matter, since nothing is configured.
const UNPACK: &str = "set -e
mount --bind \"$2\" \"$1/target\"
mount -t proc proc \"$1/target/proc\"
cd \"$1\"
exec chroot . sh -c 'exec dpkg --root=/target --force-architecture --force-depends --force-unsafe-io --unpack \"/target/$1\"/*.deb' sh \"$3\"";
/// Runs a program of a root in it: `sh -c SCRIPT sh ROOT PROGRAM ARGUMENTS`.
const INSIDE: &str = "set -e
root=$1
shift
mount --bind \"$root\" \"$root\"
cd \"$root\"
mount -t proc proc proc
exec chroot . \"$@\"";

/// A Debian of this machine's architecture, whose programs stand in for those of arm64.
#[derive(Debug)]
pub(crate) struct Twins {
    root: PathBuf,
    libraries: [&'static str; 2],
}

/// Temporary changes of a root while its scripts run.
#[derive(Debug, Default)]
struct Changes {
    /// Programs of the root, and the paths to which they were moved.
    aside: Vec<(PathBuf, PathBuf)>,
    /// Files that were added.
    added: Vec<PathBuf>,
}

impl Twins {
    /// Makes twins in the folder `root` for the container bases of a recipe; `None` if arm64 programs run natively, or if no
    /// twins are known for this architecture.
    pub(crate) fn make(
        root: &Path,
        (recipe, sources): (&Recipe, &Sources),
        progress: Progress<'_>,
    ) -> Result<Option<Self>, BaseError> {
        let own = std::env::consts::ARCH;
        let Some((_, architecture, libraries)) = ARCHITECTURES.into_iter().find(|known| known.0 == own)
        else {
            return Ok(None);
        };
        // Missing emulation is reported before anything is downloaded.
        emulation::prepare(progress)?;
        progress("container bases: a Debian of this machine, whose programs run the packages' scripts");
        let mut packages: Vec<String> =
            recipe.containers.iter().flat_map(|base| base.packages.clone()).collect();
        packages.sort_unstable();
        packages.dedup();
        let bootstrap = Bootstrap { root, architecture, variant: "minbase", packages: &packages, hook: None };
        bootstrap.run((recipe, sources))?;
        files::create_folder(&root.join(TARGET))?;
        Ok(Some(Self { root: root.to_path_buf(), libraries }))
    }

    /// Unpacks the packages in the folder `packages` of the arm64 root `root`, in which their files are already, and configures
    /// them. Removes the folder.
    pub(crate) fn install(&self, root: &Path, packages: &str, recipe: &Recipe) -> Result<(), BaseError> {
        let mut unpack = script(UNPACK, recipe);
        programs::run(unpack.arg(&self.root).arg(root).arg(packages))?;
        files::remove(&root.join(packages))?;
        let aside = root.with_extension("aside");
        let changes = self.stand_in(root, &aside)?;
        programs::run(inside(root, recipe).args(["dpkg", "--force-unsafe-io", "--configure", "-a"]))?;
        changes.undo()?;
        files::remove(&aside)?;
        if let Some(left) = foreign(root)? {
            return Err(BaseError::unusable(&left, "it is not of arm64, and is still in the root"));
        }
        programs::run(inside(root, recipe).arg("ldconfig"))?;
        let said = programs::run(inside(root, recipe).args(["dpkg", "--audit"]))?;
        if said.is_empty() { Ok(()) } else { Err(BaseError::unusable(root, String::from_utf8_lossy(&said))) }
    }

    /// Replaces the programs of a root by their twins, and moves them to the folder `aside`.
    fn stand_in(&self, root: &Path, aside: &Path) -> Result<Changes, BaseError> {
        let dpkg = files::read(&root.join("var/lib/dpkg/info/dpkg.list"))?;
        let dpkg: Vec<&[u8]> = dpkg.split(|byte| *byte == b'\n').collect();
        let mut changes = Changes::default();
        for folder in FOLDERS {
            self.stand_in_below(root, aside, Path::new(folder), &dpkg, &mut changes)?;
        }
        for library in self.libraries {
            programs::run(
                programs::command("cp").arg("-a").arg(self.root.join(library)).arg(root.join(library)),
            )?;
            changes.added.push(root.join(library));
        }
        let (link, target) = (root.join(LOADER.0), LOADER.1);
        if link.symlink_metadata().is_err() {
            files::link(&link, target)?;
            changes.added.push(link);
        }
        Ok(changes)
    }

    /// Replaces the programs in a folder of the root: those in both roots are replaced, and files that the twins load are added
    /// where the root has the folder for them.
    fn stand_in_below(
        &self,
        root: &Path,
        aside: &Path,
        folder: &Path,
        kept: &[&[u8]],
        changes: &mut Changes,
    ) -> Result<(), BaseError> {
        let theirs = self.root.join(folder);
        if folder == Path::new(OWN_LIBRARIES) || !is_folder(&root.join(folder)) || !is_folder(&theirs) {
            return Ok(());
        }
        for theirs in files::entries(&theirs)? {
            let name = folder.join(theirs.file_name().unwrap_or_default());
            if is_folder(&theirs) {
                self.stand_in_below(root, aside, &name, kept, changes)?;
                continue;
            }
            let own = root.join(&name);
            let listed = [b"/", name.as_os_str().as_bytes()].concat();
            if machine(&theirs)?.is_none() || kept.contains(&listed.as_slice()) {
                continue;
            }
            if own.symlink_metadata().is_err() {
                // Programs that the root does not have must stay invisible to its scripts.
                if name.extension().is_some_and(|extension| extension == "so") {
                    copy(&theirs, &own)?;
                    changes.added.push(own);
                }
            } else if machine(&own)?.is_some() {
                let waits = aside.join(&name);
                files::create_folder(waits.parent().unwrap_or(aside))?;
                fs::rename(&own, &waits).map_err(BaseError::file("cannot move", &own))?;
                copy(&theirs, &own)?;
                changes.aside.push((own, waits));
            }
        }
        Ok(())
    }
}

impl Changes {
    fn undo(self) -> Result<(), BaseError> {
        for (own, waits) in self.aside {
            fs::rename(&waits, &own).map_err(BaseError::file("cannot move", &waits))?;
        }
        self.added.iter().try_for_each(|path| files::remove(path))
    }
}

fn script(text: &str, recipe: &Recipe) -> Command {
    let mut command = programs::isolated("sh");
    command.args(["-c", text, "sh"]);
    bootstrap::environment(&mut command, recipe);
    command
}

/// A command inside a root; the caller appends program and arguments.
fn inside(root: &Path, recipe: &Recipe) -> Command {
    let mut command = script(INSIDE, recipe);
    command.arg(root).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

/// The machine of a program or library; `None` for any other file, also for links.
fn machine(path: &Path) -> Result<Option<u16>, BaseError> {
    let meta = path.symlink_metadata().map_err(BaseError::file("cannot look at", path))?;
    if !meta.is_file() {
        return Ok(None);
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(BaseError::file("cannot read", path))?;
    file.take(64).read_to_end(&mut head).map_err(BaseError::file("cannot read", path))?;
    let number = head.get(MACHINE..).and_then(|rest| rest.first_chunk()).copied().map(u16::from_le_bytes);
    Ok(number.filter(|_| head.starts_with(ELF)))
}

/// The first program or library below a folder that is not of arm64.
fn foreign(folder: &Path) -> Result<Option<PathBuf>, BaseError> {
    for path in files::entries(folder)? {
        let found = match is_folder(&path) {
            true => foreign(&path)?,
            false => machine(&path)?.filter(|machine| *machine != AARCH64).map(|_| path),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Copies a file with its permissions.
fn copy(from: &Path, to: &Path) -> Result<(), BaseError> {
    fs::copy(from, to).map(drop).map_err(BaseError::file("cannot copy", from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16, what: &str) -> Vec<u8> {
        let mut bytes = vec![0; MACHINE];
        bytes[..ELF.len()].copy_from_slice(ELF);
        bytes.extend(machine.to_le_bytes());
        bytes.extend(what.as_bytes());
        bytes
    }

    #[test]
    fn programs_have_stand_ins_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let (root, twins) = (folder.path().join("root"), folder.path().join("twins"));
        let write = |path: PathBuf, content: &[u8]| files::write(&path, content).unwrap();
        write(root.join("var/lib/dpkg/info/dpkg.list"), b"/.\n/usr/bin/dpkg\n");
        for name in ["usr/bin/sh", "usr/bin/dpkg", "usr/bin/only-here", "usr/lib/python3/own.so"] {
            write(root.join(name), &elf(AARCH64, name));
        }
        for name in [
            "usr/bin/sh",
            "usr/bin/dpkg",
            "usr/bin/only-there",
            "usr/lib/python3/theirs.so",
            "usr/lib64/ld.so",
        ] {
            write(twins.join(name), &elf(62, name));
        }
        for root in [&root, &twins] {
            write(root.join("usr/bin/script"), b"#!/bin/sh");
            write(root.join("usr/lib/aarch64-linux-gnu/libc.so"), &elf(AARCH64, ""));
        }
        write(twins.join("usr/lib/x86_64-linux-gnu/libc.so.6"), &elf(62, ""));
        files::link(&twins.join("usr/lib/x86_64-linux-gnu/libc.so"), "libc.so.6").unwrap();
        write(twins.join("usr/lib/other/plugin.so"), &elf(62, ""));
        let before = tree(&root);
        let twins = Twins { root: twins, libraries: ARCHITECTURES[0].2 };
        let changes = twins.stand_in(&root, &folder.path().join("aside")).unwrap();
        let of = |name: &str| machine(&root.join(name)).unwrap();
        assert_eq!((of("usr/bin/sh"), of("usr/bin/dpkg")), (Some(62), Some(AARCH64)));
        assert_eq!((of("usr/bin/only-here"), of("usr/lib/python3/theirs.so")), (Some(AARCH64), Some(62)));
        assert!(!root.join("usr/bin/only-there").exists() && !root.join("usr/lib/other").exists());
        assert_eq!(fs::read_link(root.join("lib64")).unwrap(), Path::new("usr/lib64"));
        assert!(root.join("usr/lib/x86_64-linux-gnu/libc.so").exists());
        assert!(foreign(&root).unwrap().is_some());
        changes.undo().unwrap();
        assert_eq!(tree(&root), before);
        assert_eq!(foreign(&root).unwrap(), None);
    }

    fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = files::entries(folder).unwrap().into_iter();
        let found = entries.flat_map(|path| match is_folder(&path) {
            true => tree(&path),
            false => vec![(path.clone(), files::read(&path).unwrap())],
        });
        let mut found: Vec<_> = found.collect();
        found.sort();
        found
    }
}
