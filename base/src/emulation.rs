//! Runs arm64 programs on this machine: natively, or through QEMU's user emulation, which the kernel uses as the interpreter of foreign
//! programs (`binfmt_misc`, kernel: Documentation/admin-guide/binfmt-misc.rst). The registration holds until the next
//! boot and concerns only arm64 programs, which would not run otherwise.

use std::path::Path;
use std::{fs, io};

use super::programs::{self, Program};
use super::{BaseError, Progress, files};

const PROGRAMS: [Program; 2] =
    [Program::new("qemu-aarch64-static", "qemu-user-static"), Program::new("arch-test", "arch-test")];
/// Folder of the kernel's registrations.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";
/// The registration in Debian's package, which has it once for systemd and once for binfmt-support.
const REGISTRATION: &str = "/usr/lib/binfmt.d/qemu-aarch64.conf";

/// The name of the registration.
const ENTRY: &str = "qemu-aarch64";

/// Whether this machine's own architecture is arm64.
const NATIVE: bool = cfg!(target_arch = "aarch64");

/// Debian packages that are needed here to run arm64 programs.
#[must_use]
pub fn packages() -> Vec<&'static str> {
    if NATIVE { Vec::new() } else { PROGRAMS.iter().map(|program| program.package).collect() }
}

/// Makes sure that arm64 programs run here.
///
/// # Errors
///
/// The emulator is not installed, or the kernel rejects the registration.
pub fn prepare(progress: Progress<'_>) -> Result<(), BaseError> {
    if NATIVE {
        return Ok(());
    }
    programs::require(&PROGRAMS)?;
    let folder = Path::new(BINFMT);
    if is_registered(folder) {
        return Ok(());
    }
    programs::require_root("registering the emulator of arm64 programs")?;
    mount(folder, progress)?;
    // The mount may have revealed an existing registration.
    if is_registered(folder) {
        return Ok(());
    }
    progress("registering QEMU's user emulation for arm64 programs");
    let text = files::read(Path::new(REGISTRATION))?;
    let line = registration(&String::from_utf8_lossy(&text)).ok_or_else(|| {
        BaseError::NoEmulation(format!(
            "{REGISTRATION} holds no registration; is qemu-user-static installed?"
        ))
    })?;
    let register = folder.join("register");
    match fs::write(&register, line) {
        // Another process has registered a handler in the meantime.
        Err(_) if is_registered(folder) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(BaseError::NoEmulation(format!(
            "{0} is there, but switched off or without the flag F, so that it does nothing inside a root; remove it \
             (`echo -1 > {0}`) and try again",
            folder.join(ENTRY).display()
        ))),
        Err(error) => {
            Err(BaseError::NoEmulation(format!("{} does not take QEMU: {error}", register.display())))
        }
        Ok(()) => Ok(()),
    }
}

/// Mounts the file system of registrations if it is not mounted. Other processes may do the same at the same moment – another
/// base of this build, another build, the machine's own boot –, so a failed mount is an error only if the file system is
/// not mounted afterwards.
fn mount(folder: &Path, progress: Progress<'_>) -> Result<(), BaseError> {
    let is_mounted = || folder.join("register").exists();
    if is_mounted() {
        return Ok(());
    }
    progress("mounting binfmt_misc");
    // If it is a module, it may not be loaded yet; if it is built in, this fails without harm.
    let _ = programs::run(programs::command("modprobe").arg("binfmt_misc"));
    match programs::run(programs::command("mount").args(["-t", "binfmt_misc", "binfmt_misc"]).arg(folder)) {
        Err(error) if !is_mounted() => Err(error),
        _ => Ok(()),
    }
}

/// Whether an active handler of arm64 programs is registered. The kernel must have opened its interpreter already
/// (flag F), because the interpreter's path does not exist inside a root.
fn is_registered(folder: &Path) -> bool {
    fs::read_to_string(folder.join(ENTRY)).is_ok_and(|text| is_usable(&text))
}

fn is_usable(entry: &str) -> bool {
    let flags = entry.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
    entry.lines().next() == Some("enabled") && flags.contains('F')
}

/// The registration in a file of `binfmt.d`, with the flag F.
fn registration(file: &str) -> Option<String> {
    let line = file.lines().find(|line| line.starts_with(":qemu-aarch64:"))?.trim();
    let (rest, flags) = line.rsplit_once(':')?;
    let fixed = if flags.contains('F') { "" } else { "F" };
    Some(format!("{rest}:{flags}{fixed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_found_and_always_opened_at_once() {
        let file = "# comment\n:qemu-aarch64:M::\\x7f:\\xff:/usr/bin/qemu-aarch64-static:OP\n";
        let line = registration(file).unwrap();
        assert!(line.starts_with(":qemu-aarch64:") && line.ends_with(":OPF"), "{line}");
        assert!(registration(&line).unwrap().ends_with(":OPF"));
        assert!(registration(":qemu-arm:M::a:b:c:F").is_none());
    }

    /// Moves this thread, and those that it starts, into a mount namespace without binfmt_misc.
    #[cfg(not(target_arch = "aarch64"))]
    fn hide_binfmt() {
        use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
        hearth_sys::new_mount_namespace().expect("the test needs root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        // An automount may lie below a mount, so unmounting is repeated.
        while unmount(BINFMT, UnmountFlags::DETACH).is_ok() {}
        assert!(!Path::new(BINFMT).join("register").exists());
    }

    /// Several bases of one build, several builds, and the machine's own boot may prepare the emulation at the same time.
    #[cfg(not(target_arch = "aarch64"))]
    #[test]
    fn many_at_once_prepare_a_machine_on_which_nothing_was_prepared() {
        std::thread::spawn(|| {
            for _ in 0..5 {
                hide_binfmt();
                let start = std::sync::Barrier::new(6);
                let prepare = || {
                    start.wait();
                    prepare(&|_| {})
                };
                std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..6).map(|_| scope.spawn(prepare)).collect();
                    for thread in threads {
                        thread.join().unwrap().unwrap();
                    }
                });
                assert!(is_registered(Path::new(BINFMT)));
                prepare_again();
            }
        })
        .join()
        .unwrap();
    }

    /// Two builds at once with two container bases each get as far as their mirror, which does not exist.
    #[cfg(not(target_arch = "aarch64"))]
    #[test]
    fn two_builds_of_bases_at_once_share_what_neither_found() {
        use super::super::parts::{Kind, Store};
        use super::super::recipe::{Recipe, Sources};
        let mirror = "http://127.0.0.1:9/debian".to_owned();
        let sources = Sources { mirror, security_mirror: None, ..Sources::default() };
        let recipe = Recipe::own().unwrap();
        assert!(recipe.containers.len() > 1, "they are made at once");
        std::thread::spawn(move || {
            hide_binfmt();
            let build = || {
                let folder = tempfile::tempdir().unwrap();
                let store = Store { folder: folder.path().to_owned(), refresh: false };
                store.part(Kind::Containers, (&recipe, &sources), &|_| {}).unwrap_err().to_string()
            };
            std::thread::scope(|scope| {
                let builds = [scope.spawn(build), scope.spawn(build)];
                for build in builds {
                    let error = build.join().unwrap();
                    assert!(error.contains("mmdebstrap") && error.contains("apt-get update"), "{error}");
                }
            });
            assert!(is_registered(Path::new(BINFMT)));
        })
        .join()
        .unwrap();
    }

    #[cfg(not(target_arch = "aarch64"))]
    fn prepare_again() {
        prepare(&|_| panic!("nothing is left to do")).unwrap();
    }

    #[test]
    fn an_entry_counts_only_when_it_works_inside_a_root() {
        assert!(is_usable("enabled\ninterpreter /x\nflags: POF\n"));
        assert!(!is_usable("enabled\ninterpreter /x\nflags: PO\n"));
        assert!(!is_usable("disabled\ninterpreter /x\nflags: F\n"));
    }
}
