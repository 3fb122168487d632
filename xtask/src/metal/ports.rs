//! Byte streams between xtask and the emulated metal: socket pairs whose far ends QEMU inherits as chardevs.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::{self, JoinHandle};

/// Gives QEMU a stream as the chardev `id`. This process's copy of it is closed when the command is dropped, so the stream's other end
/// notices when QEMU exits.
pub(crate) fn give(qemu: &mut Command, id: &str, stream: UnixStream) {
    let descriptor = hearth_sys::pass(qemu, stream.into());
    qemu.args(["-chardev", &format!("socket,id={id},fd={descriptor}")]);
}

/// Adds a prefix to each line, and writes only whole lines, so that those of several streams do not mix.
pub(crate) struct Prefixed<W: Write> {
    prefix: String,
    line: Vec<u8>,
    to: W,
}

impl<W: Write> Prefixed<W> {
    /// A writer with this prefix to `to`.
    pub(crate) fn new(prefix: &str, to: W) -> Self {
        Self { prefix: prefix.to_owned(), line: Vec::new(), to }
    }
}

impl<W: Write> Write for Prefixed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.is_empty() {
                self.line.extend_from_slice(self.prefix.as_bytes());
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.to.write_all(&self.line)?;
                self.line.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Prefixed<W> {
    fn drop(&mut self) {
        // The last line may have no newline. An error cannot be reported to anybody here.
        if !self.line.is_empty() {
            self.line.push(b'\n');
            let _ = self.to.write_all(&self.line);
        }
    }
}

/// Copies a stream to one of xtask's own outputs as it comes. If that is closed, the rest is discarded, so that the
/// command on the metal does not block.
pub(crate) fn stream(mut from: UnixStream, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut open = true;
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            open = open && to.write_all(bytes).and_then(|()| to.flush()).is_ok();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_whole_behind_their_prefix() {
        let mut text = Vec::new();
        let mut to = Prefixed::new("a | ", &mut text);
        for part in ["te", "st x ... ", "ok\n\ntwo\nth", "ree"] {
            to.write_all(part.as_bytes()).unwrap();
        }
        drop(to);
        assert_eq!(String::from_utf8(text).unwrap(), "a | test x ... ok\na | \na | two\na | three\n");
    }
}
