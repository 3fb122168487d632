//! The host's side of the guest's commands, over any Unix socket that takes `CONNECT <port>`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::COMMAND_PORT;

/// Maximum length of the answer to `CONNECT`, in bytes.
const HANDSHAKE_MAX: usize = 32;

/// Opens a stream to a vsock port of the guest behind `socket`. Reads and writes on it fail after `timeout`.
///
/// # Errors
/// The error of the system call; `ConnectionRefused` when the guest does not listen on the port.
pub fn connect(socket: &Path, port: u32, timeout: Duration) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut answer = Vec::new();
    // Read byte by byte: what follows the line belongs to the stream.
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 || answer.len() == HANDSHAKE_MAX {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("no stream to port {port}"),
            ));
        }
        answer.extend(byte);
    }
    if answer.starts_with(b"OK ") { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A command that the guest is executing.
#[derive(Debug)]
pub struct Command(BufReader<UnixStream>);

/// A line of the guest's answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Progress of a command that is not finished yet.
    Progress(String),
    /// The last line: the result of the command, or the reason for which it failed.
    Last(Result<String, String>),
}

impl Command {
    /// Sends a command to the guest behind `socket`.
    ///
    /// # Errors
    /// The same as for [`connect`].
    pub fn start(socket: &Path, command: &str, timeout: Duration) -> io::Result<Self> {
        Self::over(connect(socket, COMMAND_PORT, timeout)?, command)
    }

    /// Sends a command to the guest over a stream to its [`COMMAND_PORT`].
    ///
    /// # Errors
    /// The error of the system call.
    pub fn over(mut stream: UnixStream, command: &str) -> io::Result<Self> {
        stream.write_all(format!("{command}\n").as_bytes())?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Waits for the guest's next line.
    ///
    /// # Errors
    /// The error of the system call; `UnexpectedEof` when the stream ends without a result.
    pub fn next_line(&mut self) -> io::Result<Line> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        Ok(match line.split_once(' ').unwrap_or((line, "")) {
            ("ok", result) => Line::Last(Ok(result.to_string())),
            ("err", reason) => Line::Last(Err(reason.to_string())),
            _ => Line::Progress(line.to_string()),
        })
    }

    /// Whether an answer has arrived.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn has_answer(&mut self) -> io::Result<bool> {
        self.0.get_ref().set_nonblocking(true)?;
        let found = match self.0.fill_buf() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        };
        self.0.get_ref().set_nonblocking(false)?;
        found
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// The same as for [`Self::next_line`].
    pub fn finish(mut self) -> io::Result<Result<String, String>> {
        loop {
            if let Line::Last(result) = self.next_line()? {
                return Ok(result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    const TEST_TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn a_command_is_asked_and_answered() {
        let path = std::env::temp_dir().join(format!("hearth-command-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let guest = thread::spawn(move || {
            let mut reader = BufReader::new(listener.accept().unwrap().0);
            let mut lines = [String::new(), String::new()];
            reader.read_line(&mut lines[0]).unwrap();
            reader.get_mut().write_all(b"OK 7\n").unwrap();
            reader.read_line(&mut lines[1]).unwrap();
            reader.get_mut().write_all(b"flushed 3\nerr no disk\n").unwrap();
            lines.concat()
        });
        let mut command = Command::start(&path, "blk-write vda", TEST_TIMEOUT).unwrap();
        assert_eq!(command.next_line().unwrap(), Line::Progress("flushed 3".to_string()));
        assert_eq!(command.finish().unwrap(), Err("no disk".to_string()));
        assert_eq!(guest.join().unwrap(), "CONNECT 1024\nblk-write vda\n");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_stream_that_ends_early_is_no_result() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::over(ours, "ping").unwrap();
        assert!(!command.has_answer().unwrap());
        drop(theirs);
        command.finish().unwrap_err();
    }
}
