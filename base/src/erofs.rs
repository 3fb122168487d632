//! Makes read-only file systems with `mkfs.erofs`. The same folder gives the same bytes.

use std::path::Path;

use super::BaseError;
use super::programs::{self, Program};

/// The program that makes file systems.
pub(crate) const PROGRAM: Program = Program::new("mkfs.erofs", "erofs-utils");

/// Makes the file system `image` from the content of `folder`. The file system, and files newer than that, get the time `date`, in
/// seconds since 1970. The file system is not compressed: guests' reads then cost no CPU time, and the host's page cache is shared by
/// all guests.
pub(crate) fn make(image: &Path, folder: &Path, uuid: &str, date: u64) -> Result<(), BaseError> {
    programs::require(&[PROGRAM])?;
    let mut command = programs::command(PROGRAM.name);
    command.env("SOURCE_DATE_EPOCH", date.to_string());
    command.arg("--quiet").arg(format!("-U{uuid}")).arg(image).arg(folder);
    programs::run(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    #[test]
    fn the_same_files_give_the_same_bytes_in_whatever_order_they_came() {
        let folder = tempfile::tempdir().unwrap();
        let image = |name: &str, files: &[&str]| {
            let root = folder.path().join(name);
            for file in files {
                files::write(&root.join(file), file.repeat(2000)).unwrap();
            }
            let image = folder.path().join(format!("{name}.erofs"));
            make(&image, &root, "00000000-0000-0000-0000-000000000001", 1).unwrap();
            files::read(&image).unwrap()
        };
        let first = image("a", &["x", "b/c", "b/a", "y/z"]);
        assert_eq!(first, image("b", &["y/z", "b/a", "x", "b/c"]));
        assert_eq!(first[1024..1028], [0xe2, 0xe1, 0xf5, 0xe0], "the magic number of EROFS");
    }
}
