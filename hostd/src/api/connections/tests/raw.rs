//! HTTP/2 frame by frame (RFC 9113).

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What every client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Kinds of frames.
pub(in crate::api) const HEADERS: u8 = 1;
pub(in crate::api) const RESET: u8 = 3;
pub(in crate::api) const SETTINGS: u8 = 4;
pub(in crate::api) const GO_AWAY: u8 = 7;
pub(in crate::api) const CONTINUATION: u8 = 9;
/// The flag that nothing of the headers follows.
pub(in crate::api) const END_HEADERS: u8 = 4;

/// A frame of HTTP/2 (RFC 9113, section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header without compression and without a place in the table (RFC 7541, section 6.2.2).
pub(in crate::api) fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The headers of a call of gRPC.
pub(in crate::api) fn call(path: &str) -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":authority", "x"),
        header(":path", path),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

/// The next frame: kind, flags, stream and payload; none when the connection has ended.
pub(in crate::api) async fn read(client: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    client.read_exact(&mut head).await.ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    client.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], stream, payload))
}

/// Reads frames and answers settings and pings, so that the client seems alive, until the connection ends. Returns the
/// number of bytes of data.
pub(in crate::api) async fn attend(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> usize {
    let mut data = 0;
    while let Some((kind, flags, _, payload)) = read(client).await {
        let answer = match (kind, flags) {
            (0, _) => {
                data += payload.len();
                continue;
            }
            (SETTINGS, 0) => frame(SETTINGS, 1, 0, &[]),
            (6, 0) => frame(6, 1, 0, &payload),
            _ => continue,
        };
        let _ = client.write_all(&answer).await; // the end is seen when it reads
    }
    data
}
