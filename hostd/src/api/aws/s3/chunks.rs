//! A bound for the chunks of a body that is signed chunk by chunk, or that has its checksums at the end.
//!
//! `s3s` keeps a chunk in memory until it has all of it, and believes what the chunk says of its size, up to 4 GiB. This body
//! follows the framing and ends with an error where a chunk announces more than is good. The bytes pass as they are.
//!
//! ```text
//! HEX[;chunk-signature=…]\r\n DATA \r\n … 0[;chunk-signature=…]\r\n TRAILERS
//! ```

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderMap;

use super::body::BodyError;

/// Greatest size of a chunk, in bytes.
const CHUNK_MAX: u32 = 16 << 20;
/// Greatest length of the line before a chunk, in bytes.
const LINE_MAX: usize = 1 << 10;
/// Most digits of a size.
const DIGITS_MAX: usize = 8;

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// A digit of the size, or what ends it; with the size and the number of digits so far.
    Size { size: u32, digits: usize },
    /// The rest of the line after `;`, with its length so far.
    Extension { size: u32, length: usize },
    /// The end of the line.
    LineEnd { size: u32 },
    /// So many bytes of the chunk.
    Data { left: usize },
    /// `\r` after the chunk.
    Return,
    /// `\n` after the chunk.
    Newline,
    /// Anything: what follows the last chunk, or a body without chunks.
    Rest,
}

/// The beginning of a chunk.
const BEGIN: Next = Next::Size { size: 0, digits: 0 };

/// A body whose chunks are bounded.
pub(super) struct Chunks<B> {
    body: B,
    next: Next,
}

impl<B> Chunks<B> {
    pub(super) fn new(body: B, headers: &HeaderMap) -> Self {
        let mut payloads = headers.get_all(super::guard::PAYLOAD).iter();
        let has_chunks = payloads.any(|payload| payload.as_bytes().starts_with(b"STREAMING-"));
        Self { body, next: if has_chunks { BEGIN } else { Next::Rest } }
    }
}

impl Next {
    /// What comes after `data`.
    ///
    /// # Errors
    /// [`BodyError::Framing`], [`BodyError::Line`], [`BodyError::Chunk`]
    fn after(mut self, mut data: &[u8]) -> Result<Self, BodyError> {
        while let Some((&byte, rest)) = data.split_first() {
            self = match (self, byte) {
                (Self::Rest, _) => return Ok(self),
                (Self::Data { left }, _) => {
                    let taken = left.min(data.len());
                    data = data.get(taken..).unwrap_or_default();
                    self = match left.saturating_sub(taken) {
                        0 => Self::Return,
                        left => Self::Data { left },
                    };
                    continue;
                }
                (Self::Size { size, digits: 1.. }, b'\r') => Self::LineEnd { size },
                (Self::Size { size, digits: digits @ 1.. }, b';') => {
                    Self::Extension { size, length: digits.saturating_add(1) }
                }
                (Self::Size { size, digits }, digit) => {
                    let digit = char::from(digit).to_digit(16).filter(|_| digits < DIGITS_MAX);
                    let size = size.wrapping_shl(4) | digit.ok_or(BodyError::Framing)?;
                    Self::Size { size, digits: digits.saturating_add(1) }
                }
                (Self::Extension { size, .. }, b'\r') => Self::LineEnd { size },
                (Self::Extension { .. }, b'\n') => return Err(BodyError::Framing),
                // `\r\n` belong to the line.
                (Self::Extension { length, .. }, _) if length.saturating_add(3) > LINE_MAX => {
                    return Err(BodyError::Line(LINE_MAX));
                }
                (Self::Extension { size, length }, _) => {
                    Self::Extension { size, length: length.saturating_add(1) }
                }
                (Self::LineEnd { size: 0 }, b'\n') => Self::Rest,
                (Self::LineEnd { size }, b'\n') if size <= CHUNK_MAX => {
                    Self::Data { left: usize::try_from(size).unwrap_or(usize::MAX) }
                }
                (Self::LineEnd { .. }, b'\n') => return Err(BodyError::Chunk(CHUNK_MAX)),
                (Self::Return, b'\r') => Self::Newline,
                (Self::Newline, b'\n') => BEGIN,
                (Self::LineEnd { .. } | Self::Return | Self::Newline, _) => return Err(BodyError::Framing),
            };
            data = rest;
        }
        Ok(self)
    }
}

impl<B> Body for Chunks<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            match this.next.after(data) {
                Ok(next) => this.next = next,
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    /// A body of these frames, as it comes out.
    async fn through(payload: &'static str, frames: &[&[u8]]) -> Result<Vec<u8>, BodyError> {
        let frames: Vec<Result<_, BodyError>> =
            frames.iter().map(|frame| Ok(Frame::data(Bytes::copy_from_slice(frame)))).collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let headers =
            HeaderMap::from_iter([(super::super::guard::PAYLOAD.parse().unwrap(), payload.parse().unwrap())]);
        Ok(Chunks::new(body, &headers).collect().await?.to_bytes().to_vec())
    }

    const UNSIGNED: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    const SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";

    /// The body, cut in two at every byte and in frames of one byte.
    async fn cut(payload: &'static str, body: &[u8]) -> Vec<Result<Vec<u8>, BodyError>> {
        let mut told = vec![through(payload, &body.chunks(1).collect::<Vec<_>>()).await];
        for (at, _) in body.iter().enumerate() {
            let (first, second) = body.split_at(at);
            told.push(through(payload, &[first, second]).await);
        }
        told
    }

    #[tokio::test]
    async fn chunks_pass_as_they_are_wherever_frames_end() {
        let signature = "f".repeat(64);
        let signed = format!(
            "A;chunk-signature={signature}\r\nab\r\n0\r\ncd;\r\n0;chunk-signature={signature}\r\n\r\n"
        );
        // As botocore sends it.
        let unsigned = "5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
        for (payload, body) in [(SIGNED, signed.as_str()), (UNSIGNED, unsigned)] {
            for out in cut(payload, body.as_bytes()).await {
                assert_eq!(out.unwrap(), body.as_bytes());
            }
        }
        let whole = "fffffff0 is no size here";
        assert_eq!(through("UNSIGNED-PAYLOAD", &[whole.as_bytes()]).await.unwrap(), whole.as_bytes());
    }

    #[tokio::test]
    async fn a_chunk_has_at_most_16_mib() {
        let largest = vec![b'x'; 16 << 20];
        let body: [&[u8]; 4] = [b"1000000\r\n", &largest, b"\r\n1000001", b"\r\n"];
        assert_eq!(through(UNSIGNED, &body[..3]).await.unwrap().len(), 9 + (16 << 20) + 9);
        let error = through(UNSIGNED, &body).await.unwrap_err();
        assert!(matches!(error, BodyError::Chunk(_)), "{error}");
        for size in ["1000001", "FFFFFFFF", "1000001;chunk-signature=0"] {
            for out in cut(UNSIGNED, format!("1\r\nx\r\n{size}\r\n").as_bytes()).await {
                assert!(matches!(out, Err(BodyError::Chunk(_))), "{size}: {out:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_line_has_at_most_1_kib() {
        let line = |length: usize| format!("1;{}\r\nx\r\n0\r\n", "s".repeat(length - 4));
        through(SIGNED, &[line(1024).as_bytes()]).await.unwrap();
        for out in cut(SIGNED, line(1025).as_bytes()).await {
            assert!(matches!(out, Err(BodyError::Line(_))), "{out:?}");
        }
        through(SIGNED, &[line(100_000).as_bytes()]).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_is_no_chunk_ends_the_body() {
        for body in [
            "\r\n",
            ";\r\n",
            "g\r\n",
            "5 \r\n",
            "0x5\r\n",
            "000000001\r\nx",
            "5\n",
            "5\rx",
            "5;s\n",
            "1\r\nxy",
            "1\r\nx\n",
            "1\r\nx\rx",
            "1\r\nx\r\n\r\n",
        ] {
            for out in cut(UNSIGNED, body.as_bytes()).await {
                assert!(matches!(out, Err(BodyError::Framing)), "{body:?}: {out:?}");
            }
        }
    }
}
