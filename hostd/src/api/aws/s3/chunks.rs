//! The chunks of a body that is signed chunk by chunk, or that has its checksums at the end.
//!
//! ```text
//! HEX[;chunk-signature=…]\r\n DATA \r\n … 0[;chunk-signature=…]\r\n TRAILERS
//! ```
//!
//! `s3s` keeps a chunk in memory until it has all of it, believes what the chunk says of its size, and takes a body that breaks off
//! between two chunks for a whole one. This body follows the framing before `s3s` does, and ends with an error where the framing is not
//! what it should be, or ends before its last chunk.
//!
//! * Signed chunks pass as they are. Nothing of a chunk can be used before all of it is there and its signature is verified, so their
//!   size is bounded.
//! * Chunks that are not signed may have any size: AWS's SDK for Go sends the whole body as one. What has come of a chunk passes at once,
//!   as a chunk of its own, so that nothing is kept. How large a body may be is for the operation to say.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderMap;

use super::body::BodyError;

/// Greatest size of a signed chunk, in bytes.
const SIGNED_MAX: u64 = 16 << 20;
/// Greatest length of the line before a chunk, in bytes.
const LINE_MAX: usize = 1 << 10;
/// Most digits of the size of a signed chunk: `s3s` reads no more.
const SIGNED_DIGITS: usize = 8;
/// Most digits of the size of a chunk that is not signed.
const UNSIGNED_DIGITS: usize = 16;
/// What stands for the hash of a body whose chunks are not signed.
const UNSIGNED: &[u8] = b"STREAMING-UNSIGNED-PAYLOAD-TRAILER";
/// The end of a line, and of a chunk.
const NEWLINE: Bytes = Bytes::from_static(b"\r\n");
/// The line before the end of a body.
const LAST: Bytes = Bytes::from_static(b"0\r\n");

/// The chunks of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Signed,
    Unsigned,
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// A digit of the size, or what ends it; with the size and the number of digits so far.
    Size { size: u64, digits: usize },
    /// The rest of the line after `;`, with its length so far.
    Extension { size: u64, length: usize },
    /// The end of the line.
    LineEnd { size: u64 },
    /// So many bytes of the chunk.
    Data { left: u64 },
    /// `\r` after the chunk.
    Return,
    /// `\n` after the chunk.
    Newline,
    /// Anything: what follows the last chunk, or a body without chunks.
    Rest,
}

/// The beginning of a chunk.
const BEGIN: Next = Next::Size { size: 0, digits: 0 };

/// A body whose chunks are followed.
pub(super) struct Chunks<B> {
    body: B,
    kind: Kind,
    next: Next,
    /// Of chunks that are not signed: what the last frame has become.
    pieces: VecDeque<Bytes>,
}

impl<B> Chunks<B> {
    pub(super) fn new(body: B, headers: &HeaderMap) -> Self {
        let payloads: Vec<&[u8]> =
            headers.get_all(super::guard::PAYLOAD).iter().map(|payload| payload.as_bytes()).collect();
        let kind = if payloads == [UNSIGNED] { Kind::Unsigned } else { Kind::Signed };
        let has_chunks = payloads.iter().any(|payload| payload.starts_with(b"STREAMING-"));
        Self { body, kind, next: if has_chunks { BEGIN } else { Next::Rest }, pieces: VecDeque::new() }
    }

    /// Follows the framing through a frame; returns the frame if it passes as it is.
    fn follow(&mut self, mut data: Bytes) -> Result<Option<Bytes>, BodyError> {
        if self.kind == Kind::Signed {
            let mut left = data.as_ref();
            while !left.is_empty() {
                let (next, taken) = self.next.after(left, self.kind)?;
                (self.next, left) = (next, left.get(taken..).unwrap_or_default());
            }
            return Ok(Some(data));
        }
        while !data.is_empty() {
            let (next, taken) = self.next.after(&data, self.kind)?;
            let piece = data.split_to(taken);
            match self.next {
                Next::Data { .. } => {
                    self.pieces.extend([Bytes::from(format!("{taken:x}\r\n")), piece, NEWLINE]);
                }
                Next::LineEnd { size: 0 } => self.pieces.push_back(LAST),
                Next::Rest => self.pieces.push_back(piece),
                // The chunk's own framing.
                _ => {}
            }
            self.next = next;
        }
        Ok(None)
    }
}

impl Next {
    /// What comes after the first bytes of `data`, which is not empty, and their number.
    ///
    /// # Errors
    /// [`BodyError::Framing`], [`BodyError::Line`], [`BodyError::Chunk`]
    fn after(self, data: &[u8], kind: Kind) -> Result<(Self, usize), BodyError> {
        let Some(&byte) = data.first() else { return Ok((self, 0)) };
        let digits_max = if kind == Kind::Signed { SIGNED_DIGITS } else { UNSIGNED_DIGITS };
        let next = match (self, byte) {
            (Self::Rest, _) => return Ok((self, data.len())),
            (Self::Data { left }, _) => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
                return Ok(match left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX)) {
                    0 => (Self::Return, taken),
                    left => (Self::Data { left }, taken),
                });
            }
            (Self::Size { size, digits: 1.. }, b'\r') => Self::LineEnd { size },
            (Self::Size { size, digits: digits @ 1.. }, b';') if kind == Kind::Signed => {
                Self::Extension { size, length: digits.saturating_add(1) }
            }
            (Self::Size { size, digits }, digit) => {
                let digit = char::from(digit).to_digit(16).filter(|_| digits < digits_max);
                let size = size.wrapping_shl(4) | u64::from(digit.ok_or(BodyError::Framing)?);
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
            (Self::LineEnd { size }, b'\n') if kind == Kind::Signed && size > SIGNED_MAX => {
                return Err(BodyError::Chunk(SIGNED_MAX));
            }
            (Self::LineEnd { size }, b'\n') => Self::Data { left: size },
            (Self::Return, b'\r') => Self::Newline,
            (Self::Newline, b'\n') => BEGIN,
            (Self::LineEnd { .. } | Self::Return | Self::Newline, _) => return Err(BodyError::Framing),
        };
        Ok((next, 1))
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
        loop {
            if let Some(piece) = this.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(frame) => frame?,
                None if matches!(this.next, Next::Rest) => return Poll::Ready(None),
                None => {
                    this.next = Next::Rest;
                    return Poll::Ready(Some(Err(BodyError::Cut)));
                }
            };
            match frame.into_data().map(|data| this.follow(data)) {
                Ok(Ok(Some(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                // It is in pieces now.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => return Poll::Ready(Some(Err(error))),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && matches!(self.next, Next::Rest) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.kind {
            Kind::Signed => self.body.size_hint(),
            Kind::Unsigned => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{self, Stream, StreamExt as _};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const UNSIGNED: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    const SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";

    /// A body of these frames.
    fn chunks<S>(payload: &'static str, frames: S) -> Chunks<StreamBody<S>>
    where
        S: Stream<Item = Result<Frame<Bytes>, BodyError>> + Unpin,
    {
        let headers =
            HeaderMap::from_iter([(super::super::guard::PAYLOAD.parse().unwrap(), payload.parse().unwrap())]);
        Chunks::new(StreamBody::new(frames), &headers)
    }

    /// A body of these frames, as it comes out.
    async fn through(payload: &'static str, frames: &[&[u8]]) -> Result<Vec<u8>, BodyError> {
        let frames: Vec<_> =
            frames.iter().map(|frame| Ok(Frame::data(Bytes::copy_from_slice(frame)))).collect();
        Ok(chunks(payload, stream::iter(frames)).collect().await?.to_bytes().to_vec())
    }

    /// The body, cut in two at every byte and in frames of one byte.
    async fn cut(payload: &'static str, body: &[u8]) -> Vec<Result<Vec<u8>, BodyError>> {
        let mut told = vec![through(payload, &body.chunks(1).collect::<Vec<_>>()).await];
        for (at, _) in body.iter().enumerate() {
            let (first, second) = body.split_at(at);
            told.push(through(payload, &[first, second]).await);
        }
        told
    }

    /// The data of chunks, and what follows them.
    fn decoded(mut chunks: &[u8]) -> (Vec<u8>, &[u8]) {
        let mut data = Vec::new();
        loop {
            let end = chunks.iter().position(|byte| *byte == b'\r').unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&chunks[..end]).unwrap(), 16).unwrap();
            chunks = chunks[end..].strip_prefix(b"\r\n").unwrap();
            if size == 0 {
                return (data, chunks);
            }
            data.extend_from_slice(&chunks[..size]);
            chunks = chunks[size..].strip_prefix(b"\r\n").unwrap();
        }
    }

    #[tokio::test]
    async fn signed_chunks_and_what_has_none_pass_as_they_are() {
        let signature = "f".repeat(64);
        let signed = format!(
            "A;chunk-signature={signature}\r\nab\r\n0\r\ncd;\r\n0;chunk-signature={signature}\r\n\r\n"
        );
        for out in cut(SIGNED, signed.as_bytes()).await {
            assert_eq!(out.unwrap(), signed.as_bytes());
        }
        let whole = "fffffff0 is no size here";
        for payload in ["UNSIGNED-PAYLOAD", "e3b0c4"] {
            assert_eq!(through(payload, &[whole.as_bytes()]).await.unwrap(), whole.as_bytes());
        }
    }

    #[tokio::test]
    async fn what_has_come_of_an_unsigned_chunk_is_a_chunk() {
        // As botocore sends it.
        let sent = "5\r\nhello\r\n00A\r\n wo\r\n0\r\nrl\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
        for out in cut(UNSIGNED, sent.as_bytes()).await {
            let out = out.unwrap();
            let (data, trailers) = decoded(&out);
            assert_eq!(data, b"hello wo\r\n0\r\nrl");
            assert_eq!(trailers, b"x-amz-checksum-crc32:DUoRhQ==\r\n\r\n");
        }
        // The rest of the chunk never comes.
        let begun = stream::iter([Ok(Frame::data(Bytes::from_static(b"FFFFFFFFFF\r\nabc")))]);
        let mut begun = chunks(UNSIGNED, begun.chain(stream::pending()));
        for piece in ["3\r\n", "abc", "\r\n"] {
            assert_eq!(begun.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
        }
    }

    #[tokio::test]
    async fn a_signed_chunk_has_at_most_16_mib() {
        let largest = vec![b'x'; 16 << 20];
        let body: [&[u8]; 4] = [b"1000000;s\r\n", &largest, b"\r\n1000001", b";s\r\n"];
        let error = through(SIGNED, &body).await.unwrap_err();
        assert!(matches!(error, BodyError::Chunk(_)), "{error}");
        let body = [body[0], body[1], b"\r\n0;s\r\n"];
        assert_eq!(through(SIGNED, &body).await.unwrap().len(), 11 + (16 << 20) + 7);
        for size in ["1000001", "FFFFFFFF", "1000001;chunk-signature=0"] {
            for out in cut(SIGNED, format!("1\r\nx\r\n{size}\r\n").as_bytes()).await {
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
        let of_both = [
            "\r\n",
            ";\r\n",
            "g\r\n",
            "5 \r\n",
            "0x5\r\n",
            "00000000000000001\r\nx",
            "5\n",
            "5\rx",
            "5;s\n",
            "1\r\nxy",
            "1\r\nx\n",
            "1\r\nx\rx",
            "1\r\nx\r\n\r\n",
        ];
        let signed = ["000000001;s\r\nx", "100000001;s\r\nx"];
        let unsigned = ["1;chunk-signature=0\r\nx", "1;"];
        let all = of_both.iter().flat_map(|body| [(SIGNED, body), (UNSIGNED, body)]);
        let all = all.chain(signed.iter().map(|body| (SIGNED, body)));
        for (payload, body) in all.chain(unsigned.iter().map(|body| (UNSIGNED, body))) {
            for out in cut(payload, body.as_bytes()).await {
                assert!(matches!(out, Err(BodyError::Framing)), "{body:?}: {out:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_ends_before_its_last_chunk_is_not_whole() {
        for payload in [SIGNED, UNSIGNED] {
            let whole = "2\r\nab\r\n3\r\nabc\r\n0\r\n";
            through(payload, &[whole.as_bytes()]).await.unwrap();
            for end in 0..whole.len() {
                let out = through(payload, &[&whole.as_bytes()[..end]]).await;
                assert!(matches!(out, Err(BodyError::Cut)), "{:?}: {out:?}", &whole[..end]);
            }
        }
    }
}
