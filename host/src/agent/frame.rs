//! Messages on a stream: a length of four bytes, little-endian, and a protobuf message.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest message in bytes.
pub const MAX: usize = 1 << 20;

/// Why a message did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream has ended between two messages.
    #[error("the connection was closed")]
    Closed,
    /// The stream broke.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// Longer than allowed.
    #[error("a message of {0} bytes is longer than the {MAX} that are allowed")]
    TooLong(usize),
    /// Not a message.
    #[error("a message cannot be read: {0}")]
    Garbage(#[from] prost::DecodeError),
}

/// Sends a message.
///
/// # Errors
/// [`FrameError`].
pub async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> Result<(), FrameError> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok().filter(|_| length <= MAX).ok_or(FrameError::TooLong(length))?;
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&prefix.to_le_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    Ok(stream.write_all(&bytes).await?)
}

/// Receives a message. Not to be cancelled half-way: what was read is lost then.
///
/// # Errors
/// [`FrameError`]; the sender is a guest, so nothing of it is believed.
pub async fn receive<M: Message + Default>(stream: &mut (impl AsyncRead + Unpin)) -> Result<M, FrameError> {
    let mut prefix = [0; 4];
    let mut have = 0;
    while have < prefix.len() {
        match stream.read(prefix.get_mut(have..).unwrap_or_default()).await? {
            0 if have == 0 => return Err(FrameError::Closed),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => have += count,
        }
    }
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if length > MAX {
        return Err(FrameError::TooLong(length));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(M::decode(bytes.as_slice())?)
}
