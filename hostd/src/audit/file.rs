//! A file that is rotated when it is full.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The files of a log: `NAME.jsonl`, then `NAME.1.jsonl`, `NAME.2.jsonl` … from newer to older.
#[derive(Debug)]
pub(super) struct RotatedFile {
    folder: PathBuf,
    name: &'static str,
    max_bytes: u64,
    max_files: u32,
    /// The current file and its size in bytes; `None` after an error.
    open: Option<(File, u64)>,
}

impl RotatedFile {
    pub(super) fn open(
        folder: &Path,
        name: &'static str,
        max_bytes: u64,
        max_files: u32,
    ) -> io::Result<Self> {
        let mut file = Self { folder: folder.to_owned(), name, max_bytes, max_files, open: None };
        file.reopen()?;
        Ok(file)
    }

    /// Writes a line, which ends with a newline, completely or not at all.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.open.as_ref().is_some_and(|(file, _)| file.metadata().is_ok_and(|data| data.nlink() == 0)) {
            self.open = None; // the file was removed
        }
        if self.open.as_ref().is_some_and(|(_, size)| *size > 0 && size + length > self.max_bytes) {
            self.sync()?;
            self.open = None;
            self.put_aside().map_err(self.failed("put aside"))?;
        }
        if self.open.is_none() {
            self.reopen()?;
        }
        let failed = self.failed("write to");
        let Some((file, size)) = &mut self.open else { return Ok(()) };
        if let Err(error) = file.write_all(line) {
            if file.set_len(*size).is_err() {
                self.open = None; // the rest of the line is cut off when the file is opened again
            }
            return Err(failed(error));
        }
        *size += length;
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.open {
            Some((file, _)) => file.sync_data().map_err(self.failed("sync")),
            None => Ok(()),
        }
    }

    /// Opens the file for writing after its last complete line.
    fn reopen(&mut self) -> io::Result<()> {
        let failed = self.failed("open");
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut file =
                OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(self.path(0))?;
            let size = whole_lines(&mut file)?;
            if file.metadata()?.len() > size {
                file.set_len(size)?;
            }
            Ok((file, size))
        };
        self.open = Some(open().map_err(failed)?);
        Ok(())
    }

    /// Renames every file to the next number; the last one is deleted.
    fn put_aside(&self) -> io::Result<()> {
        for number in (0..self.max_files).rev() {
            let moved = match number + 1 == self.max_files {
                true => fs::remove_file(self.path(number)),
                false => fs::rename(self.path(number), self.path(number + 1)),
            };
            match moved {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(match number {
            0 => format!("{}.jsonl", self.name),
            number => format!("{}.{number}.jsonl", self.name),
        })
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> io::Error + use<> {
        let path = self.path(0);
        move |error| io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
    }
}

/// Offset of the end of the last complete line of a file.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const CHUNK: u64 = 64 << 10;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or_default()];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        if let Some(newline) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + u64::try_from(newline + 1).unwrap_or_default());
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(folder: &Path) -> Vec<(String, String)> {
        let files = fs::read_dir(folder).unwrap().flatten();
        let read = |entry: fs::DirEntry| {
            (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
        };
        let mut files: Vec<_> = files.map(read).collect();
        files.sort();
        files
    }

    #[test]
    fn full_files_are_put_aside_and_the_oldest_go() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("a/b");
        let mut file = RotatedFile::open(&folder, "audit", 10, 3).unwrap();
        for line in ["one\n", "two\n", "three\n", "a long line of its own\n", "five\n", "six\n"] {
            file.append(line.as_bytes()).unwrap();
        }
        let expected = [
            ("audit.1.jsonl", "a long line of its own\n"),
            ("audit.2.jsonl", "three\n"),
            ("audit.jsonl", "five\nsix\n"),
        ];
        assert_eq!(contents(&folder), expected.map(|(name, text)| (name.to_owned(), text.to_owned())));

        let mut only = RotatedFile::open(&base.path().join("c"), "audit", 10, 1).unwrap();
        only.append(b"123456\n").unwrap();
        only.append(b"abcdef\n").unwrap();
        assert_eq!(contents(&base.path().join("c")), [("audit.jsonl".to_owned(), "abcdef\n".to_owned())]);
    }

    #[test]
    fn half_a_line_is_cut_off() {
        let base = tempfile::tempdir().unwrap();
        for (there, expected) in [
            ("whole\nhalf".to_owned(), "whole\nnext\n".to_owned()),
            ("half".to_owned(), "next\n".to_owned()),
            (format!("whole\n{}", "x".repeat(200_000)), "whole\nnext\n".to_owned()),
            (format!("{}\n", "x".repeat(200_000)), format!("{}\nnext\n", "x".repeat(200_000))),
        ] {
            fs::write(base.path().join("audit.jsonl"), there).unwrap();
            RotatedFile::open(base.path(), "audit", 1 << 20, 3).unwrap().append(b"next\n").unwrap();
            assert_eq!(fs::read_to_string(base.path().join("audit.jsonl")).unwrap(), expected);
        }
    }

    #[test]
    fn what_cannot_be_written_is_told_and_writing_goes_on_when_it_can() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("audit");
        let mut file = RotatedFile::open(&folder, "audit", 1 << 20, 3).unwrap();
        file.append(b"one\n").unwrap();
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "a file").unwrap();
        let error = file.append(b"two\n").unwrap_err().to_string();
        assert!(error.contains("audit.jsonl"), "{error}");
        fs::remove_file(&folder).unwrap();
        file.append(b"three\n").unwrap();
        assert_eq!(contents(&folder), [("audit.jsonl".to_owned(), "three\n".to_owned())]);
    }
}
