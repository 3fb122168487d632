//! Messages on a connection: each is preceded by its length, an unsigned 32-bit little-endian number. The other side may be hostile: no
//! length or content from it is trusted.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

/// Bytes of the longest message.
pub const LIMIT: usize = 1 << 20;

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
    #[error("a message of {0} bytes is longer than the protocol's {LIMIT}")]
    TooLong(usize),
    /// The bytes are no message of the expected type.
    #[error("a message cannot be decoded: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Reads the next message; `None` if the connection was closed after the previous one.
///
/// # Errors
/// [`FrameError`]; nothing more can be read from the connection then.
pub async fn read<M: Message + Default>(
    source: &mut (impl AsyncRead + Unpin),
) -> Result<Option<M>, FrameError> {
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
    if length > LIMIT {
        return Err(FrameError::TooLong(length));
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
pub async fn receive<M: Message + Default>(source: &mut (impl AsyncRead + Unpin)) -> Result<M, FrameError> {
    read(source).await?.ok_or(FrameError::Closed)
}

/// Appends a message with its length to `buffer`.
///
/// # Errors
/// [`FrameError::TooLong`]; the buffer is unchanged then.
pub fn append(buffer: &mut Vec<u8>, message: &impl Message) -> Result<(), FrameError> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok().filter(|_| length <= LIMIT).ok_or(FrameError::TooLong(length))?;
    buffer.reserve(4 + length);
    buffer.extend_from_slice(&prefix.to_le_bytes());
    message.encode_raw(buffer);
    Ok(())
}

/// Writes a message.
///
/// # Errors
/// [`FrameError`]; unless the message is too long, nothing more can be written to the connection.
pub async fn write(sink: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> Result<(), FrameError> {
    let mut bytes = Vec::new();
    append(&mut bytes, message)?;
    sink.write_all(&bytes).await?;
    Ok(sink.flush().await?)
}

#[cfg(test)]
mod tests {
    use hearth_proto::guest::v1::{LogAcknowledged, LogRecord};

    use super::*;

    #[tokio::test]
    async fn messages_come_as_they_were_sent() {
        let (mut here, mut there) = tokio::io::duplex(100);
        let long = LogRecord { sequence: 1, line: vec![7; 300_000], ..LogRecord::default() };
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
        assert!(matches!(read::<LogAcknowledged>(&mut long).await, Err(FrameError::TooLong(_))));
        let mut short: &[u8] = &[9, 0, 0, 0, 1];
        assert!(matches!(read::<LogAcknowledged>(&mut short).await, Err(FrameError::Truncated)));
        let mut half: &[u8] = &[9, 0];
        assert!(matches!(read::<LogAcknowledged>(&mut half).await, Err(FrameError::Truncated)));
        let mut wrong: &[u8] = &[1, 0, 0, 0, 0xff];
        assert!(matches!(read::<LogAcknowledged>(&mut wrong).await, Err(FrameError::Malformed(_))));
        let message = LogRecord { line: vec![0; LIMIT], ..LogRecord::default() };
        assert!(matches!(append(&mut Vec::new(), &message), Err(FrameError::TooLong(_))));
    }
}
