//! The part of HTTP/1.1 that Firecracker's API needs: one connection, one request at a time.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::vm::WAIT_TIMEOUT;

/// Pause between attempts to connect. Short in comparison with the measured times, long in comparison with an attempt.
const NAP: Duration = Duration::from_micros(50);
/// Longest response, in bytes.
const ANSWER_MAX: usize = 64 << 10;

/// A connection to an API socket.
#[derive(Debug)]
pub(crate) struct Api(BufReader<UnixStream>);

impl Api {
    /// Connects to the socket at `path` as soon as its process listens there.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let started = Instant::now();
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(WAIT_TIMEOUT)).context("setting a time-out")?;
                    return Ok(Self(BufReader::new(stream)));
                }
                Err(error) if started.elapsed() >= WAIT_TIMEOUT => {
                    return Err(error).with_context(|| format!("connecting to {}", path.display()));
                }
                Err(_) => thread::sleep(NAP),
            }
        }
    }

    /// Sends a request and waits for its response, which must report success.
    pub(crate) fn call(&mut self, method: &str, resource: &str, body: &Value) -> Result<()> {
        let what = || format!("{method} {resource}");
        let body = body.to_string();
        let request = format!(
            "{method} {resource} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes()).with_context(what)?;
        let (status, answer) = self.answer().with_context(what)?;
        if !(200..300).contains(&status) {
            bail!("{} was answered with {status}: {answer}", what());
        }
        Ok(())
    }

    /// Reads a response: its status and its body.
    fn answer(&mut self) -> Result<(u16, String)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.with_context(|| format!("`{first}` is no status line"))?;
        let mut length = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().with_context(|| format!("`{line}` has no number"))?;
            }
        }
        if length > ANSWER_MAX {
            bail!("an answer of {length} bytes is too long");
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).context("reading the answer's body")?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line).context("reading an answer")? == 0 {
            bail!("the connection was closed before the answer");
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Path of the API socket of a process in `folder`.
pub(crate) fn socket_in(folder: &Path) -> PathBuf {
    folder.join("api")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::json;

    use super::*;

    /// The result of a call to a server that answers with `answer`, and the request that the server received.
    fn call(answer: &'static str) -> (Result<()>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = socket_in(folder.path());
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut asked = [0; 1024];
            let count = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        let result = Api::connect(&path).unwrap().call("PUT", "/x", &json!({"a": 1}));
        (result, server.join().unwrap())
    }

    #[test]
    fn a_request_has_its_body_and_a_good_answer_is_enough() {
        let (result, asked) = call("HTTP/1.1 204 \r\nServer: x\r\n\r\n");
        result.unwrap();
        assert!(asked.starts_with("PUT /x HTTP/1.1\r\n") && asked.contains("Content-Length: 7\r\n"));
        assert!(asked.ends_with("\r\n\r\n{\"a\":1}"));
    }

    #[test]
    fn a_refusal_is_told_with_its_reason() {
        let (result, _) = call("HTTP/1.1 400 Bad\r\nContent-Length: 6\r\n\r\nno way");
        assert_eq!(result.unwrap_err().to_string(), "PUT /x was answered with 400: no way");
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() {
        assert!(call("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nno").0.is_err());
        assert!(call("").0.is_err());
    }
}
