//! The host's side of the multiplexer: clients of the listener, sockets that are passed in, and events of the
//! streams' sockets.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;

use super::EPHEMERAL_PORTS;
use super::connection::{Connection, Key, State};
use super::muxer::{CloseMode, Muxer, token};
use super::relay::Watch;
use super::socket;
use crate::devices::random;
use crate::devices::virtio::DeviceError;
use crate::event_loop::{Interest, Poller};

/// Largest length of a handshake line in bytes, including its newline.
const HANDSHAKE_LINE: usize = 32;

/// The part of its handshake that a client has sent so far.
#[derive(Debug, PartialEq, Eq)]
enum HandshakeLine {
    /// The line is not complete yet.
    Incomplete,
    /// The line is `CONNECT <port>`; `length` is its length in bytes, including the newline.
    Connect { port: u32, length: usize },
    /// The line is anything else.
    Invalid,
}

impl HandshakeLine {
    fn parse(data: &[u8]) -> Self {
        let Some(end) = data.iter().position(|&byte| byte == b'\n') else {
            return if data.len() < HANDSHAKE_LINE { Self::Incomplete } else { Self::Invalid };
        };
        let line = data.get(..end).and_then(|line| str::from_utf8(line).ok()).unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next().map(str::parse), words.next()) {
            (Some(word), Some(Ok(port)), None) if word.eq_ignore_ascii_case("connect") => {
                Self::Connect { port, length: end + 1 }
            }
            _ => Self::Invalid,
        }
    }
}

impl Muxer {
    /// Starts watching descriptors, when the device is activated.
    ///
    /// # Errors
    /// When a descriptor cannot be watched.
    pub(super) fn start(&mut self, poller: Poller) -> io::Result<()> {
        poller.add(&self.timer, super::TOKEN_TIMER, Interest::READ)?;
        self.broker.watch(&poller)?;
        self.poller = Some(poller);
        Ok(())
    }

    /// Drops every stream and stops watching descriptors, when the device is reset.
    pub(super) fn stop(&mut self) {
        self.drop_streams();
        let Some(poller) = self.poller.take() else { return };
        // This fails for descriptors that are not watched, which does no harm.
        let _ = poller.remove(&self.timer);
        self.broker.unwatch(&poller);
    }

    /// Adds a client of the listener, which must then name its port. The table must have room.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn greet(&mut self, client: UnixStream) -> Result<(), DeviceError> {
        let size = self.buffer_size();
        let connection = Connection::new(Key::default(), State::Handshake, Some(client), size);
        let Some(slot) = self.table.insert(connection) else { return Ok(()) };
        let (Some(connection), Some(poller)) = (self.table.get_mut(slot), &self.poller) else {
            return Ok(());
        };
        if connection.watch(Watch { poller, token: token(slot) }).is_err() {
            return self.finish(slot, CloseMode::Silent);
        }
        self.set_deadline(slot, self.limits.handshake_timeout)?;
        self.read_greeting(slot)
    }

    /// Takes exactly the handshake line once it is complete: the bytes after it belong to the stream.
    fn read_greeting(&mut self, slot: u16) -> Result<(), DeviceError> {
        let Some(connection) = self.table.get_mut(slot) else { return Ok(()) };
        let Some(stream) = &connection.stream else { return Ok(()) };
        let mut data = [0; HANDSHAKE_LINE];
        let count = match socket::receive_slice(stream, &mut data, true) {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            _ => return self.finish(slot, CloseMode::Silent),
        };
        match HandshakeLine::parse(data.get(..count).unwrap_or_default()) {
            HandshakeLine::Incomplete if !connection.hangup => Ok(()),
            HandshakeLine::Connect { port, length } => {
                let line = data.get_mut(..length).unwrap_or_default();
                let taken = socket::receive_slice(stream, line, false);
                connection.readable = true;
                let Some(key) = self.free_key(port) else { return self.finish(slot, CloseMode::Silent) };
                if taken.ok() != Some(length) {
                    return self.finish(slot, CloseMode::Silent);
                }
                if let Some(connection) = self.table.get_mut(slot) {
                    connection.request_stream(key);
                }
                self.request_stream(slot, key)
            }
            HandshakeLine::Incomplete | HandshakeLine::Invalid => self.finish(slot, CloseMode::Silent),
        }
    }

    /// Adds a socket that is to be connected to the guest's `port`. The table must have room.
    ///
    /// # Errors
    /// When the socket cannot be watched or the timer cannot be set.
    pub(super) fn connect(&mut self, port: u32, stream: UnixStream) -> io::Result<()> {
        let key = self.free_key(port).ok_or(io::ErrorKind::AddrInUse)?;
        let state = State::Connecting { announce: false };
        let connection = Connection::new(key, state, Some(stream), self.buffer_size());
        let slot = self.table.insert(connection).ok_or(io::ErrorKind::QuotaExceeded)?;
        if let (Some(connection), Some(poller)) = (self.table.get(slot), &self.poller)
            && let Err(error) = connection.watch(Watch { poller, token: token(slot) })
        {
            self.table.remove(slot);
            return Err(error);
        }
        self.request_stream(slot, key).map_err(io::Error::other)
    }

    fn request_stream(&mut self, slot: u16, key: Key) -> Result<(), DeviceError> {
        self.table.bind(key, slot);
        self.set_deadline(slot, self.limits.connect_timeout)?;
        self.queue(slot);
        Ok(())
    }

    /// Continues with a random host port. A restored guest may still be closing streams from before the snapshot, and
    /// would confuse a new stream between the same ports with one of those.
    ///
    /// # Errors
    /// When the host has no random bytes.
    pub(super) fn shuffle_ports(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4];
        random::fill(&mut bytes)?;
        let count = EPHEMERAL_PORTS.end - EPHEMERAL_PORTS.start;
        self.next_port = EPHEMERAL_PORTS.start + u32::from_le_bytes(bytes) % count;
        Ok(())
    }

    /// Finds a port of the host that has no stream with the guest's `port`. There are far more ports than streams.
    fn free_key(&mut self, port: u32) -> Option<Key> {
        for _ in 0..=self.table.len() {
            let key = Key { host: self.next_port, guest: port };
            self.next_port += 1;
            if !EPHEMERAL_PORTS.contains(&self.next_port) {
                self.next_port = EPHEMERAL_PORTS.start;
            }
            if self.table.find(key).is_none() {
                return Some(key);
            }
        }
        None
    }

    /// Handles the guest's acceptance of the stream in `slot`.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn opened(&mut self, slot: u16, announce: bool) -> Result<(), DeviceError> {
        let Some(connection) = self.table.get_mut(slot) else { return Ok(()) };
        connection.accepted();
        self.counters.connections_opened += 1;
        let Some(stream) = &connection.stream else { return Ok(()) };
        if !announce {
            return Ok(());
        }
        let mut line = io::Cursor::new([0; HANDSHAKE_LINE]);
        let _ = writeln!(line, "OK {}", connection.key.host); // at most 14 bytes
        let length = usize::try_from(line.position()).unwrap_or(0);
        let line = line.get_ref().get(..length).unwrap_or_default();
        match socket::send_slices(stream, [line, &[]]) {
            Ok(count) if count == length => Ok(()),
            // A client that has closed its socket may have sent data before: the guest receives that, then the end.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                connection.lose_host(&mut self.rings);
                Ok(())
            }
            _ => self.finish(slot, CloseMode::Reset),
        }
    }

    /// Handles events of a stream's socket.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn stream_ready(&mut self, slot: u16, events: u32) -> Result<(), DeviceError> {
        let (Some(connection), Some(poller)) = (self.table.get_mut(slot), &self.poller) else {
            return Ok(());
        };
        let Some(stream) = &connection.stream else { return Ok(()) };
        // The event may belong to a stream that had this slot before, so it counts only as far as the socket
        // confirms it.
        let end = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR).cast_unsigned();
        if events & end != 0 && socket::reads_to_end(stream) {
            connection.hangup = true;
        }
        connection.readable = true;
        if connection.state == State::Handshake {
            return self.read_greeting(slot);
        }
        let watch = Watch { poller, token: token(slot) };
        let Ok(progress) = connection.flush(&mut self.rings, watch) else {
            return self.finish(slot, CloseMode::Reset);
        };
        if connection.state == State::Gone {
            // Only data that the guest had sent before its end is still being delivered.
            if !connection.has_backlog() {
                return self.finish(slot, CloseMode::Silent);
            }
            if progress {
                self.set_deadline(slot, self.limits.linger)?;
            }
            return Ok(());
        }
        if connection.hangup && connection.state == State::Open {
            connection.check_host(&mut self.rings);
        }
        self.queue(slot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_names_a_port_in_one_line() {
        let connect = |port, length| HandshakeLine::Connect { port, length };
        assert_eq!(HandshakeLine::parse(b"CONNECT 52\nrest"), connect(52, 11));
        assert_eq!(HandshakeLine::parse(b"connect 4294967295\r\n"), connect(u32::MAX, 20));
        for piece in [&b""[..], b"C", b"CONNECT 5", &[b' '; 31]] {
            assert_eq!(HandshakeLine::parse(piece), HandshakeLine::Incomplete, "{piece:?}");
        }
        for line in [
            &b"\n"[..],
            b"CONNECT\n",
            b"CONNECT x\n",
            b"CONNECT -1\n",
            b"CONNECT 4294967296\n",
            b"CONNECT 1 2\n",
            b"CLOSE 1\n",
            b"CONNECT \xff\n",
            &[b'0'; 32],
        ] {
            assert_eq!(HandshakeLine::parse(line), HandshakeLine::Invalid, "{line:?}");
        }
    }
}
