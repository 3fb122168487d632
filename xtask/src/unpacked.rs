//! Programs of packages that were unpacked and not installed ([`crate::private_apt`]) run with the packages' own loader and
//! libraries, which may be newer than this machine's.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Path of the dynamic loader in the tree; the path of its libraries follows.
const LOADER: &str = if cfg!(target_arch = "aarch64") {
    "usr/lib/ld-linux-aarch64.so.1"
} else {
    "usr/lib64/ld-linux-x86-64.so.2"
};
const LIBRARIES: &str =
    if cfg!(target_arch = "aarch64") { "usr/lib/aarch64-linux-gnu" } else { "usr/lib/x86_64-linux-gnu" };

/// A shell script in the root of a tree of packages, which runs a program of the tree wherever the tree is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Script<'a> {
    /// Path of the program in the tree.
    pub(crate) program: &'a str,
    /// Path in the tree of a file that is the program's first argument.
    pub(crate) file: Option<&'a str>,
    /// Lines before the program is run; `$root` is the tree.
    pub(crate) before: &'a str,
}

impl Script<'_> {
    /// Writes it as `name` into the tree's root.
    ///
    /// # Errors
    /// The tree does not have the program, its file or a loader, or the script cannot be written.
    pub(crate) fn write(&self, root: &Path, name: &str) -> Result<()> {
        let Self { program, file, before } = *self;
        for needed in [Some(LOADER), Some(program), file].into_iter().flatten() {
            if !root.join(needed).exists() {
                bail!("the packages hold no {needed}");
            }
        }
        let file = file.map(|file| format!(" \"$root/{file}\"")).unwrap_or_default();
        let script = format!(
            "#!/bin/sh\nroot=${{0%/*}}\n{before}\
             exec \"$root/{LOADER}\" --library-path \"$root/{LIBRARIES}\" \"$root/{program}\"{file} \"$@\"\n"
        );
        let path = root.join(name);
        fs::write(&path, script)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::command;

    #[test]
    fn a_program_runs_with_the_loader_of_its_tree() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a tree");
        for (path, text) in [
            (LOADER, "#!/bin/sh\necho \"$HOME_OF_IT\"\nprintf '%s\\n' \"$@\"\n"),
            ("usr/bin/python", ""),
            ("usr/bin/aws", ""),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        }
        let script = Script {
            program: "usr/bin/python",
            file: Some("usr/bin/aws"),
            before: "export HOME_OF_IT=\"$root/usr\"\n",
        };
        script.write(&root, "aws").unwrap();
        let shown = command::capture(Command::new(root.join("aws")).arg("s3 ls")).unwrap();
        let root = root.display();
        let expected = format!(
            "{root}/usr\n--library-path\n{root}/{LIBRARIES}\n{root}/usr/bin/python\n{root}/usr/bin/aws\ns3 ls\n"
        );
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_the_packages_do_not_hold_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            Script { program: "usr/bin/aws", ..Script::default() }.write(folder.path(), "aws").unwrap_err();
        assert_eq!(error.to_string(), format!("the packages hold no {LOADER}"));
    }
}
