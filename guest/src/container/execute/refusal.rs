//! Why a program cannot be executed, for those who have built the container.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::head::{self, Head};
use crate::refusal::Refusal;

/// Programs that may need each other: the kernel follows as many interpreters of scripts, and a loader comes last.
const DEPTH: usize = 6;

/// Characters of a name that are shown.
const SHOWN: usize = 300;

/// Explains why the kernel has refused to execute a file with this error.
pub(super) fn explain(path: &Path, error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => missing(path),
        Some(libc::EACCES) => denied(path),
        Some(libc::ENOEXEC | libc::ELIBBAD) => wrong_format(path),
        // It is the host's memory or disk, or there are too many processes.
        Some(libc::EAGAIN | libc::ENOMEM | libc::EIO | libc::EMFILE | libc::ENFILE) | None => {
            Refusal::system(format!("executing {}", of(path)), error)
        }
        Some(libc::E2BIG) => Refusal::invalid(format!(
            "{} cannot be executed: its arguments and its environment are too long",
            of(path)
        )),
        Some(_) => Refusal::invalid(format!("{} cannot be executed: {error}", of(path))),
    }
}

/// The file, then what it needs to be executed: interpreters of scripts, the loader of a program.
fn chain(path: &Path) -> Vec<(PathBuf, Option<Head>)> {
    let mut links = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next.take().filter(|_| links.len() < DEPTH) {
        let head = head::read(&path).ok();
        next = match &head {
            Some(Head::Script { interpreter }) => Some(interpreter.clone()),
            Some(Head::Program { loader }) => loader.clone(),
            Some(Head::Other(_)) | None => None,
        };
        links.push((path, head));
    }
    links
}

/// Names a link of the chain: the file itself, or an interpreter and whose it is.
fn link(links: &[(PathBuf, Option<Head>)], index: usize) -> String {
    let name = |at: usize| links.get(at).map(|(path, _)| of(path)).unwrap_or_default();
    match index.checked_sub(1) {
        None => name(0),
        Some(before) => format!("interpreter {} of {}", name(index), name(before)),
    }
}

/// The file, or what it needs, does not exist.
fn missing(path: &Path) -> Refusal {
    let links = chain(path);
    let Some(index) = links.iter().position(|(path, _)| is_missing(path)) else {
        return Refusal::not_found(format!("no such file: something that {} needs", of(path)));
    };
    let name = link(&links, index);
    let hint = match links.get(index).map(|(path, _)| path.to_string_lossy()) {
        _ if index == 0 && path.symlink_metadata().is_ok() => " (a link whose target does not exist)",
        Some(path) if path.ends_with('\r') => {
            " (its first line ends with a carriage return: save it with the line ends of Unix)"
        }
        Some(path) if path.contains("/ld-musl-") => " (it is built for musl, as on Alpine Linux)",
        Some(path) if path.contains("/ld-linux-") => " (it is built for glibc, as on Debian)",
        _ => "",
    };
    Refusal::not_found(format!("no such file: {name}{hint}"))
}

fn is_missing(path: &Path) -> bool {
    let absent = |error: io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR));
    path.metadata().map(drop).is_err_and(absent)
}

/// The user may not execute the file, or what it needs.
fn denied(path: &Path) -> Refusal {
    let links = chain(path);
    for (index, (path, _)) in links.iter().enumerate() {
        let name = link(&links, index);
        let why = match path.metadata() {
            Err(_) => "is in a folder that this user may not enter".to_owned(),
            Ok(metadata) if metadata.is_dir() => "is a folder".to_owned(),
            Ok(metadata) if !metadata.is_file() => "is no file".to_owned(),
            Ok(metadata) => match not_executable(path, &metadata) {
                Some(why) => why,
                None => continue,
            },
        };
        return Refusal::invalid(format!("permission denied: {name} {why}"));
    }
    Refusal::invalid(format!("permission denied: {} is on a file system without programs", of(path)))
}

/// Why this user may not execute a file; none if it may.
fn not_executable(path: &Path, metadata: &Metadata) -> Option<String> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o111 == 0 {
        return Some(format!("is not executable (mode {mode:04o}): chmod +x, or COPY --chmod=755"));
    }
    let text = crate::system::c_string(path).ok()?;
    // SAFETY: the pointer is to a string that lives until the call returns.
    let result = unsafe { libc::faccessat(libc::AT_FDCWD, text.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
    (result != 0).then(|| format!("is not executable for this user (mode {mode:04o})"))
}

/// The kernel does not know the format of the file, or of what it needs.
fn wrong_format(path: &Path) -> Refusal {
    let links = chain(path);
    let what = links.iter().enumerate().find_map(|(index, (_, head))| match head {
        Some(Head::Other(what)) => Some(format!("{} {what}", link(&links, index))),
        _ => None,
    });
    let what = what.unwrap_or_else(|| format!("{} is no program that Linux knows", of(path)));
    Refusal::invalid(format!("Exec format error: {what}"))
}

fn of(path: &Path) -> String {
    shown(&path.to_string_lossy())
}

/// A text of the container, with control characters escaped, and cut.
pub(super) fn shown(text: &str) -> String {
    let escaped = |character: char| {
        let control = character.is_control().then(|| character.escape_default());
        let plain = (!character.is_control()).then_some(character);
        control.into_iter().flatten().chain(plain)
    };
    let mut shown: String = text.chars().take(SHOWN).flat_map(escaped).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use hearth_proto::guest::v1::FailureCode;

    use super::*;

    /// A 64-bit ELF file with a program header that names a loader.
    fn elf(machine: u16, kind: u16, loader: Option<&str>) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(kind.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.resize(32, 0);
        file.extend(64_u64.to_le_bytes());
        file.resize(54, 0);
        file.extend(56_u16.to_le_bytes());
        file.extend(1_u16.to_le_bytes());
        file.resize(64, 0);
        file.extend(if loader.is_some() { 3_u32 } else { 1 }.to_le_bytes());
        file.resize(72, 0);
        file.extend(120_u64.to_le_bytes());
        file.resize(96, 0);
        file.extend((loader.unwrap_or_default().len() as u64 + 1).to_le_bytes());
        file.resize(120, 0);
        file.extend(loader.unwrap_or_default().bytes().chain([0]));
        file
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn file(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        /// The message for an error, with the folder's name left out.
        fn says(&self, path: &Path, error: i32) -> (FailureCode, String) {
            let refusal = explain(path, &io::Error::from_raw_os_error(error));
            (refusal.code, refusal.message.replace(&format!("{}", self.0.path().display()), ""))
        }
    }

    fn folder() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    #[test]
    fn files_that_are_no_programs_of_microvms_are_named() {
        let folder = folder();
        for (content, expected) in [
            (elf(62, 2, None), "is built for x86-64, microVMs are arm64"),
            (elf(62, 3, Some("/lib64/ld-linux-x86-64.so.2")), "is built for x86-64, microVMs are arm64"),
            (elf(243, 2, None), "is built for riscv64, microVMs are arm64"),
            (elf(999, 2, None), "is built for a processor with the number 999 (64 bits), microVMs are arm64"),
            (elf(183, 1, None), "is an object file, which the linker has to make a program of"),
            (elf(183, 2, None)[..70].to_vec(), "is a damaged program: it ends too early"),
            (b"\x7fELF".to_vec(), "is built for a processor with the number 0 (32 bits), microVMs are arm64"),
            (b"".to_vec(), "is empty"),
            (b"#! \n".to_vec(), "names no program behind the \"#!\" of its first line"),
            (b"MZ\x90\0".to_vec(), "is built for Windows, microVMs run Linux on arm64"),
            (b"\0\0\0\0".to_vec(), "is no program that Linux knows"),
            (
                b"echo hi\nsleep 1000\n".to_vec(),
                "is a script without \"#!\" in its first line: begin it with #!/bin/sh, or start it with its interpreter",
            ),
        ] {
            let path = folder.file("app", content, 0o755);
            let expected = (FailureCode::Invalid, format!("Exec format error: /app {expected}"));
            assert_eq!(folder.says(&path, libc::ENOEXEC), expected);
        }
    }

    #[test]
    fn what_is_wrong_or_missing_is_found_behind_scripts() {
        let folder = folder();
        let run = folder.file("run", elf(62, 2, None), 0o755);
        let script = folder.file("app", format!("#!{} -x\n", run.display()), 0o755);
        let (code, text) = folder.says(&script, libc::ENOEXEC);
        assert_eq!(code, FailureCode::Invalid);
        assert_eq!(
            text,
            "Exec format error: interpreter /run of /app is built for x86-64, microVMs are arm64"
        );
        for (content, expected) in [
            (b"#!/no/bash\n".to_vec(), "interpreter /no/bash of /app"),
            (
                b"#!/no/sh\r\n".to_vec(),
                "interpreter /no/sh\\r of /app (its first line ends with a carriage return: save it with the line ends of Unix)",
            ),
            (
                elf(183, 3, Some("/no/ld-musl-aarch64.so.1")),
                "interpreter /no/ld-musl-aarch64.so.1 of /app (it is built for musl, as on Alpine Linux)",
            ),
        ] {
            let path = folder.file("app", content, 0o755);
            let expected = (FailureCode::NotFound, format!("no such file: {expected}"));
            assert_eq!(folder.says(&path, libc::ENOENT), expected);
        }
        // Scripts that need each other without end.
        let one = folder.file("one", "", 0o755);
        folder.file("one", format!("#!{}\n", one.display()), 0o755);
        assert_eq!(folder.says(&one, libc::ELOOP).0, FailureCode::Invalid);
        assert_eq!(folder.says(&one, libc::ENOEXEC).0, FailureCode::Invalid);
    }

    #[test]
    fn what_may_not_be_executed_says_why() {
        let folder = folder();
        let plain = folder.file("app", "#!/bin/sh\n", 0o644);
        let text = "permission denied: /app is not executable (mode 0644): chmod +x, or COPY --chmod=755";
        assert_eq!(folder.says(&plain, libc::EACCES), (FailureCode::Invalid, text.to_owned()));
        let script = folder.file("script", format!("#!{}\n", plain.display()), 0o755);
        let text = folder.says(&script, libc::EACCES).1;
        assert!(
            text.starts_with("permission denied: interpreter /app of /script is not executable"),
            "{text}"
        );
        let text = folder.says(folder.0.path(), libc::EACCES).1;
        assert_eq!(text, "permission denied:  is a folder");
        let link = folder.0.path().join("link");
        symlink("nowhere", &link).unwrap();
        let text = "no such file: /link (a link whose target does not exist)";
        assert_eq!(folder.says(&link, libc::ENOENT), (FailureCode::NotFound, text.to_owned()));
    }

    /// What the kernel of this machine refuses, with its own errors.
    #[test]
    fn the_kernels_errors_are_explained() {
        let folder = folder();
        let foreign = if cfg!(target_arch = "aarch64") { 62 } else { 243 };
        for (content, mode, expected) in [
            (elf(foreign, 2, None), 0o755, "Exec format error: /app is built for "),
            (b"echo hi\n".to_vec(), 0o755, "Exec format error: /app is a script without"),
            (b"#!/no/such/shell\n".to_vec(), 0o755, "no such file: interpreter /no/such/shell of /app"),
            (b"#!/bin/sh\n".to_vec(), 0o644, "permission denied: /app is not executable (mode 0644)"),
        ] {
            let path = folder.file("app", content, mode);
            let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
            let refusal = super::super::execute(path.to_str().unwrap(), &[text], &[], "");
            let message = refusal.message.replace(&format!("{}", folder.0.path().display()), "");
            assert!(message.starts_with(expected), "{message}");
        }
        let refusal = super::super::execute("no-such-program", &[], &[], "/bin:/usr/bin");
        assert_eq!(
            refusal.message,
            "no such program: no-such-program is in no folder of PATH (/bin:/usr/bin)"
        );
        let refusal = super::super::execute("/no/such/program", &[], &[], "/bin");
        assert_eq!(refusal.message, "no such file: /no/such/program");
    }

    #[test]
    fn a_pipe_is_not_waited_for_and_names_are_harmless() {
        let folder = folder();
        let path = folder.0.path().join("pipe");
        let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the pointer is to a string that lives until the call returns.
        assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o755) }, 0);
        assert_eq!(folder.says(&path, libc::EACCES).1, "permission denied: /pipe is no file");
        assert_eq!(shown("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(shown(&"x".repeat(5000)).chars().count(), SHOWN + 1);
    }
}
