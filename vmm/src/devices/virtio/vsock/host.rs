//! The host's side of the multiplexer: clients of the listener, sockets handed in, the broker's answers,
//! and events of the streams' sockets.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::broker::{self, Answer};
use super::connection::{Connection, State};
use super::muxer::{End, Muxer, token};
use super::relay::Watch;
use super::socket;
use super::table::Key;
use super::{EPHEMERAL_PORTS, TOKEN_BROKER};
use crate::devices::virtio::DeviceError;
use crate::event_loop::{Interest, Poller};

/// Bytes of a handshake line at most, its newline included.
const HANDSHAKE_LINE: usize = 32;
/// Answers of the broker handled per event.
const BROKER_BATCH: usize = 64;

/// What a client has said so far.
#[derive(Debug, PartialEq, Eq)]
enum Greeting {
    /// Not a whole line yet.
    Incomplete,
    /// `CONNECT <port>`, in so many bytes with the newline.
    Connect { port: u32, length: usize },
    /// Something else.
    Nonsense,
}

impl Greeting {
    fn parse(data: &[u8]) -> Self {
        let Some(end) = data.iter().position(|&byte| byte == b'\n') else {
            return if data.len() < HANDSHAKE_LINE { Self::Incomplete } else { Self::Nonsense };
        };
        let line = data.get(..end).and_then(|line| str::from_utf8(line).ok()).unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next().map(str::parse), words.next()) {
            (Some(word), Some(Ok(port)), None) if word.eq_ignore_ascii_case("connect") => {
                Self::Connect { port, length: end + 1 }
            }
            _ => Self::Nonsense,
        }
    }
}

impl Muxer {
    /// The device starts: descriptors are watched from now on.
    ///
    /// # Errors
    /// When a descriptor cannot be watched.
    pub(super) fn start(&mut self, poller: Poller) -> io::Result<()> {
        poller.add(&self.timer, super::TOKEN_TIMER, Interest::READ)?;
        if let Some(broker) = &self.broker {
            poller.add(broker, TOKEN_BROKER, Interest::READ)?;
        }
        self.poller = Some(poller);
        Ok(())
    }

    /// The device stops: every stream ends, nothing is watched.
    pub(super) fn stop(&mut self) {
        self.drop_streams();
        let Some(poller) = self.poller.take() else { return };
        // What was not watched needs no unwatching.
        let _ = poller.remove(&self.timer);
        if let Some(broker) = &self.broker {
            let _ = poller.remove(broker);
        }
    }

    /// Puts another broker, or none, in place of the present one, whose unanswered requests are reset.
    ///
    /// # Errors
    /// When the new one cannot be watched; there is none then.
    pub(super) fn set_broker(&mut self, broker: Option<OwnedFd>) -> io::Result<()> {
        if let (Some(old), Some(poller)) = (self.broker.take(), &self.poller) {
            let _ = poller.remove(&old); // closed below in any case
        }
        let mut result = Ok(());
        for slot in 0..self.table.end() {
            if let Some(State::AwaitingBroker(_)) = self.table.get(slot).map(|connection| connection.state) {
                result = self.finish(slot, End::Reset).map_err(io::Error::other).and(result);
            }
        }
        if let (Some(new), Some(poller)) = (&broker, &self.poller) {
            poller.add(new, TOKEN_BROKER, Interest::READ)?;
        }
        self.broker = broker;
        result
    }

    /// The broker's socket has something to say.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn broker_ready(&mut self) -> Result<(), DeviceError> {
        for _ in 0..BROKER_BATCH {
            let Some(broker) = &self.broker else { return Ok(()) };
            match broker::receive_answer(broker) {
                Ok(answer) => self.answered(answer)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => {
                    return self.set_broker(None).map_err(DeviceError::backend("dropping the vsock broker"));
                }
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: Answer) -> Result<(), DeviceError> {
        let [slot_low, slot_high, ..] = answer.request.to_le_bytes();
        let slot = u16::from_le_bytes([slot_low, slot_high]);
        let (Some(connection), Some(poller)) = (self.table.get_mut(slot), &self.poller) else {
            return Ok(());
        };
        if connection.state != State::AwaitingBroker(answer.request) {
            return Ok(()); // the guest has given up meanwhile; the socket closes
        }
        let Some(stream) = answer.stream else { return self.finish(slot, End::Reset) };
        connection.accept(UnixStream::from(stream));
        self.awaiting = self.awaiting.saturating_sub(1);
        if connection.watch(Watch { poller, token: token(slot) }).is_err() {
            return self.finish(slot, End::Reset);
        }
        self.counters.connections_opened += 1;
        self.queue(slot);
        Ok(())
    }

    /// A client of the listener: it has to say which port it wants. The table has room.
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
            return self.finish(slot, End::Silent);
        }
        self.set_deadline(slot, self.limits.handshake_timeout)?;
        self.read_greeting(slot)
    }

    /// Looks whether the line is there, and takes exactly it: what follows belongs to the stream.
    fn read_greeting(&mut self, slot: u16) -> Result<(), DeviceError> {
        let Some(connection) = self.table.get_mut(slot) else { return Ok(()) };
        let Some(stream) = &connection.stream else { return Ok(()) };
        let mut data = [0; HANDSHAKE_LINE];
        let count = match socket::receive_slice(stream, &mut data, true) {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            _ => return self.finish(slot, End::Silent),
        };
        match Greeting::parse(data.get(..count).unwrap_or_default()) {
            Greeting::Incomplete if !connection.hangup => Ok(()),
            Greeting::Connect { port, length } => {
                let line = data.get_mut(..length).unwrap_or_default();
                let taken = socket::receive_slice(stream, line, false);
                connection.readable = true;
                let Some(key) = self.free_key(port) else { return self.finish(slot, End::Silent) };
                if taken.ok() != Some(length) {
                    return self.finish(slot, End::Silent);
                }
                if let Some(connection) = self.table.get_mut(slot) {
                    connection.ask_guest(key);
                }
                self.ask_guest(slot, key)
            }
            Greeting::Incomplete | Greeting::Nonsense => self.finish(slot, End::Silent),
        }
    }

    /// A socket that is to be connected to the guest's `port`. The table has room.
    ///
    /// # Errors
    /// When the socket cannot be watched or the timer not be set.
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
        self.ask_guest(slot, key).map_err(io::Error::other)
    }

    fn ask_guest(&mut self, slot: u16, key: Key) -> Result<(), DeviceError> {
        self.table.bind(key, slot);
        self.set_deadline(slot, self.limits.connect_timeout)?;
        self.queue(slot);
        Ok(())
    }

    /// A port of the host that has no stream with the guest's `port`. There are far more than streams.
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

    /// The guest has accepted the stream in `slot`.
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
            // A client that has closed may have sent before: the guest gets that, and then the end.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                connection.lose_host(&mut self.rings);
                Ok(())
            }
            _ => self.finish(slot, End::Reset),
        }
    }

    /// A stream's socket has something to say.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub(super) fn stream_ready(&mut self, slot: u16, events: u32) -> Result<(), DeviceError> {
        let (Some(connection), Some(poller)) = (self.table.get_mut(slot), &self.poller) else {
            return Ok(());
        };
        let Some(stream) = &connection.stream else { return Ok(()) };
        // The event may be about a stream that had this slot before: nothing is concluded from it that the
        // socket does not confirm.
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
            return self.finish(slot, End::Reset);
        };
        if connection.state == State::Gone {
            // Only what the guest had sent before it was done is still going out.
            if !connection.has_backlog() {
                return self.finish(slot, End::Silent);
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
        let connect = |port, length| Greeting::Connect { port, length };
        assert_eq!(Greeting::parse(b"CONNECT 52\nrest"), connect(52, 11));
        assert_eq!(Greeting::parse(b"connect 4294967295\r\n"), connect(u32::MAX, 20));
        for piece in [&b""[..], b"C", b"CONNECT 5", &[b' '; 31]] {
            assert_eq!(Greeting::parse(piece), Greeting::Incomplete, "{piece:?}");
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
            assert_eq!(Greeting::parse(line), Greeting::Nonsense, "{line:?}");
        }
    }
}
