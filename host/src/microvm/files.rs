//! Reading files that a monitor writes, to a bound: a monitor that its guest has taken over writes as much as it likes.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Reads the first `bytes` of a file, as text; none if it cannot be read.
#[must_use]
pub fn head(path: &Path, bytes: u64) -> Option<String> {
    take(File::open(path).ok()?, bytes)
}

/// Reads the last `bytes` of a file, as text; none if it cannot be read.
#[must_use]
pub fn tail(path: &Path, bytes: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes))).ok()?;
    take(file, bytes)
}

/// Bytes that are no UTF-8 are replaced: half a character at the beginning of an end, or anything.
fn take(file: File, bytes: u64) -> Option<String> {
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_to_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!((head(&path, 4), tail(&path, 4)), (None, None));
        std::fs::write(&path, "first and last").unwrap();
        assert_eq!(
            (head(&path, 5).unwrap(), tail(&path, 4).unwrap()),
            ("first".to_owned(), "last".to_owned())
        );
        assert_eq!(tail(&path, 100).unwrap(), "first and last");
        // A file of any length costs what was asked for.
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(tail(&path, 3).unwrap(), "\0\0\0");
    }
}
