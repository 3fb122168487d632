//! Messages on a connection: each is preceded by its length, an unsigned 32-bit little-endian number. The other side may be hostile: no
//! length or content from it is trusted, and each kind of message ([`Framed`]) has a limit of its own, which is what a sender of that
//! kind can need. The limits hold for agents of all releases since 0.2: none of them sends more.

use std::io;

use hearth_proto::guest::v1 as proto;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

/// Bytes of the longest message of any kind.
pub const LIMIT: usize = 1 << 20;

/// Bytes of the longest line in a record of the log.
pub const LINE: usize = 256 << 10;

/// Room for the fields of a message beside its one long field.
const FIELDS: usize = 1 << 10;

/// A kind of message on a connection.
pub trait Framed: Message + Default {
    /// Bytes of the longest message of this kind.
    const LIMIT: usize;
}

/// The kinds, with their limits.
macro_rules! framed {
    ($($kind:ident: $limit:expr,)*) => {
        $(impl Framed for proto::$kind {
            const LIMIT: usize = $limit;
        })*
    };
}

framed! {
    // From the host. Programs have arguments and an environment.
    Open: LIMIT,
    Request: LIMIT,
    ExecInput: (512 << 10) + FIELDS,
    LogAcknowledged: FIELDS,
    DnsAnswer: DNS,
    // From the guest. A failure may name an argument of a program, which is at most 128 KiB long.
    Opened: 256 << 10,
    Response: 256 << 10,
    ExecOutput: (256 << 10) + FIELDS,
    LogRecord: LINE + FIELDS,
    DnsQuery: DNS,
}

/// A DNS message is at most 65,535 bytes long.
const DNS: usize = (64 << 10) + FIELDS;

/// Memory for a message is allocated in steps as its bytes arrive, so that a large length alone allocates nothing.
const STEP: usize = 64 << 10;

/// Why no message could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection was closed after the previous message.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Connection(#[from] io::Error),
    /// The connection was closed within a message.
    #[error("the connection ended within a message")]
    Truncated,
    /// The message is too long.
    #[error("a message of {length} bytes is longer than the {limit} that one of its kind may have")]
    TooLong {
        /// Bytes of the message.
        length: usize,
        /// Bytes of the longest message of its kind.
        limit: usize,
    },
    /// The bytes are no message of the expected type.
    #[error("a message cannot be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Reads the next message; `None` if the connection was closed after the previous one.
///
/// # Errors
/// [`FrameError`]; nothing more can be read from the connection then.
pub async fn read<M: Framed>(source: &mut (impl AsyncRead + Unpin)) -> Result<Option<M>, FrameError> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < length.len() {
        match source.read(&mut length[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated),
            count => filled += count,
        }
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > M::LIMIT {
        return Err(FrameError::TooLong { length, limit: M::LIMIT });
    }
    // Some messages hold credentials, which must leave no copy in memory, not even in buffers that became too short.
    let mut bytes = Zeroizing::new(Vec::new());
    while bytes.len() < length {
        let start = bytes.len();
        let room = length.min(start + STEP.max(start));
        let mut longer = Zeroizing::new(Vec::with_capacity(room));
        longer.extend_from_slice(&bytes);
        longer.resize(room, 0);
        bytes = longer;
        source.read_exact(&mut bytes[start..]).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FrameError::Truncated,
            _ => FrameError::Connection(error),
        })?;
    }
    Ok(Some(M::decode(bytes.as_slice())?))
}

/// Reads the next message, which must exist. Not cancel-safe: bytes that were read are lost.
///
/// # Errors
/// [`FrameError`], with [`FrameError::Closed`] if the connection was closed after the previous message.
pub async fn receive<M: Framed>(source: &mut (impl AsyncRead + Unpin)) -> Result<M, FrameError> {
    read(source).await?.ok_or(FrameError::Closed)
}

/// Appends a message with its length to `buffer`.
///
/// # Errors
/// [`FrameError::TooLong`]; the buffer is unchanged then.
pub fn append<M: Framed>(buffer: &mut Vec<u8>, message: &M) -> Result<(), FrameError> {
    let (length, limit) = (message.encoded_len(), M::LIMIT);
    let prefix = u32::try_from(length).ok().filter(|_| length <= limit);
    let prefix = prefix.ok_or(FrameError::TooLong { length, limit })?;
    buffer.reserve(4 + length);
    buffer.extend_from_slice(&prefix.to_le_bytes());
    message.encode_raw(buffer);
    Ok(())
}

/// Writes a message.
///
/// # Errors
/// [`FrameError`]; unless the message is too long, nothing more can be written to the connection.
pub async fn write(sink: &mut (impl AsyncWrite + Unpin), message: &impl Framed) -> Result<(), FrameError> {
    let mut bytes = Vec::new();
    append(&mut bytes, message)?;
    sink.write_all(&bytes).await?;
    Ok(sink.flush().await?)
}

#[cfg(test)]
mod tests {
    use hearth_proto::guest::v1::{LogAcknowledged, LogRecord, OpenExec, open, open_exec};
    use proto::{exec_output, response};

    use super::*;

    #[tokio::test]
    async fn messages_come_as_they_were_sent() {
        let (mut here, mut there) = tokio::io::duplex(100);
        let long = LogRecord { sequence: 1, line: vec![7; LINE], ..LogRecord::default() };
        let short = LogRecord::default();
        let sent = [long, short];
        let writer = async {
            for message in &sent {
                write(&mut here, message).await.unwrap();
            }
            drop(here);
        };
        let reader = async {
            for message in &sent {
                assert_eq!(read::<LogRecord>(&mut there).await.unwrap().as_ref(), Some(message));
            }
            assert!(read::<LogRecord>(&mut there).await.unwrap().is_none());
        };
        tokio::join!(writer, reader);
    }

    #[tokio::test]
    async fn what_is_too_long_truncated_or_no_message_is_an_error() {
        let mut long: &[u8] = &u32::MAX.to_le_bytes();
        assert!(matches!(read::<LogAcknowledged>(&mut long).await, Err(FrameError::TooLong { .. })));
        let mut short: &[u8] = &[9, 0, 0, 0, 1];
        assert!(matches!(read::<LogAcknowledged>(&mut short).await, Err(FrameError::Truncated)));
        let mut half: &[u8] = &[9, 0];
        assert!(matches!(read::<LogAcknowledged>(&mut half).await, Err(FrameError::Truncated)));
        let mut wrong: &[u8] = &[1, 0, 0, 0, 0xff];
        assert!(matches!(read::<LogAcknowledged>(&mut wrong).await, Err(FrameError::Malformed(_))));
        let message = LogRecord { line: vec![0; LIMIT], ..LogRecord::default() };
        assert!(matches!(append(&mut Vec::new(), &message), Err(FrameError::TooLong { .. })));
    }

    /// Whether a message of this kind is read whose length is `LIMIT`, and refused before its bytes are read if it is one byte longer.
    async fn at_its_limit<M: Framed>() {
        let frame = |length: usize| u32::try_from(length).unwrap().to_le_bytes();
        let refused = read::<M>(&mut frame(M::LIMIT + 1).as_slice()).await;
        assert!(matches!(refused, Err(FrameError::TooLong { .. })), "{}", std::any::type_name::<M>());
        let accepted = read::<M>(&mut frame(M::LIMIT).as_slice()).await;
        assert!(matches!(accepted, Err(FrameError::Truncated)), "{}", std::any::type_name::<M>());
    }

    #[tokio::test]
    async fn each_kind_of_message_has_its_own_limit() {
        at_its_limit::<proto::Opened>().await;
        at_its_limit::<proto::Response>().await;
        at_its_limit::<proto::ExecOutput>().await;
        at_its_limit::<LogRecord>().await;
        at_its_limit::<proto::DnsQuery>().await;
        let largest = [
            <proto::Opened as Framed>::LIMIT,
            <proto::Response as Framed>::LIMIT,
            <proto::ExecOutput as Framed>::LIMIT,
            <LogRecord as Framed>::LIMIT,
            <proto::DnsQuery as Framed>::LIMIT,
        ];
        assert!(largest.iter().all(|limit| *limit < LIMIT / 2), "{largest:?}");
    }

    /// The longest messages that agents since 0.2 and their hosts send.
    #[test]
    fn what_agents_of_all_releases_send_fits() {
        fn fits(message: &impl Framed) {
            append(&mut Vec::new(), message).unwrap();
        }
        let (sequence, timestamp_ns) = (u64::MAX, u64::MAX);
        let (line, killed) = (vec![b'x'; LINE], "x".repeat(64));
        fits(&LogRecord { sequence, timestamp_ns, source: 3, line, continues: true, killed });
        fits(&proto::DnsQuery { id: u64::MAX, message: vec![0; 65_535] });
        fits(&proto::DnsAnswer { id: u64::MAX, message: vec![0; 65_535] });
        let output = exec_output::Event::Stdout(vec![0; 128 << 10]);
        fits(&proto::ExecOutput { event: Some(output) });
        let failure = proto::Failure { code: 2, message: "x".repeat((128 << 10) + 200) };
        fits(&proto::Response { result: Some(response::Result::Failure(failure.clone())) });
        fits(&proto::ExecOutput { event: Some(exec_output::Event::Failed(failure.clone())) });
        fits(&proto::Opened { failure: Some(failure), ..proto::Opened::default() });
        let input = proto::exec_input::Event::Stdin(vec![0; 256 << 10]);
        fits(&proto::ExecInput { event: Some(input) });
        let process =
            proto::Process { environment: vec!["x".repeat(900 << 10)], ..proto::Process::default() };
        let exec = OpenExec { what: Some(open_exec::What::Process(process)), ..OpenExec::default() };
        fits(&crate::version::open(open::Kind::Exec(exec), &[]));
    }
}
