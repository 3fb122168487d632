//! Bodies in chunks that are not signed: of any size, and never in memory as a whole.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::*;
use crate::api::aws::listen::tests::stand::Stand;

/// Size of a frame, in bytes.
const FRAME: usize = 64 << 10;
/// Number of frames in a body: 40 MiB.
const FRAMES: usize = 640;

/// Bytes that are counted as long as they are in memory.
struct Counted {
    bytes: Vec<u8>,
    live: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// The head of an upload whose checksum follows it.
fn head(path: &str, length: usize) -> hyper::http::request::Parts {
    let length = length.to_string();
    let headers = vec![
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", length.as_str()),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    ];
    let signable = SignableBody::StreamingUnsignedPayloadTrailer;
    let mut parts = Unsigned { headers, signable, ..request("PUT", path, b"") }.signed().into_parts().0;
    parts.headers.remove("content-length");
    parts
}

#[tokio::test]
async fn a_chunk_of_any_size_is_stored_as_it_comes() {
    let stand = Stand::new(Profile::Default).await;
    let (live, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let data = vec![b'x'; FRAME];
    let mut crc = crc32fast::Hasher::new();
    (0..FRAMES).for_each(|_| crc.update(&data));
    let crc = STANDARD.encode(crc.finalize().to_be_bytes());
    let (begin, end) =
        (format!("{:x}\r\n", FRAME * FRAMES), format!("\r\n0\r\nx-amz-checksum-crc32:{crc}\r\n\r\n"));
    let counted = {
        let (live, most) = (Arc::clone(&live), Arc::clone(&most));
        move |_| {
            let now = live.fetch_add(FRAME, Ordering::Relaxed) + FRAME;
            most.fetch_max(now, Ordering::Relaxed);
            Bytes::from_owner(Counted { bytes: data.clone(), live: Arc::clone(&live) })
        }
    };
    let frames = [Bytes::from(begin)].into_iter().chain((0..FRAMES).map(counted)).chain([Bytes::from(end)]);
    let body = StreamBody::new(stream::iter(frames.map(|data| Ok::<_, std::io::Error>(Frame::data(data)))));
    let request = Request::from_parts(head("/hearth-local/big.zip", FRAME * FRAMES), body);
    let claimed = claimed(caller(ACCOUNT, [Policy::everything()].into()), true);
    let response = answer(&stand.service, claimed, request).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(parts.status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    // The frame that is written, and the next one.
    let most = most.load(Ordering::Relaxed);
    assert!((FRAME..=2 * FRAME).contains(&most), "{most} bytes of the chunk were in memory at a time");
    assert_eq!(live.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_chunk_is_bounded_by_what_an_artifact_may_have() {
    let mut client = Client::new().await;
    client.tls = true;
    let put = |announced: usize, size: usize| {
        let body = [format!("{size:x}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n0\r\n\r\n"].concat();
        Request::from_parts(head("/artifacts/key", announced), Full::new(Bytes::from(body)))
    };
    client.send(put(101, 101)).await.is(400, "EntityTooLarge");
    client.send(put(5, 101)).await.is(400, "EntityTooLarge");
    client.call("GET", "/artifacts/key", b"").await.is(404, "NoSuchKey");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_stored() {
    let mut client = Client::new().await;
    client.tls = true;
    let crc = STANDARD.encode(crc32fast::hash(b"hello world").to_be_bytes());
    let whole = format!("5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:{crc}\r\n\r\n");
    let put = |body: &str| {
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        Request::from_parts(head("/artifacts/key", 11), body)
    };
    for end in ["hel", "5\r\n", "6\r\n wor", "6\r\n world", "6\r\n world\r\n"] {
        let (before, _) = whole.split_once(end).unwrap();
        client.send(put(&format!("{before}{end}"))).await.is(400, "IncompleteBody");
    }
    client.call("GET", "/artifacts/key", b"").await.is(404, "NoSuchKey");
    assert_eq!(client.send(put(&whole)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn signed_chunks_are_verified_before_they_are_used() {
    // Without a signature, and with a wrong one.
    let client = Client::new().await;
    let put = |extension: &str| {
        let headers = vec![("content-encoding", "aws-chunked"), ("x-amz-decoded-content-length", "5")];
        let signable = SignableBody::Precomputed("STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_owned());
        let parts = Unsigned { headers, signable, ..request("PUT", "/artifacts/key", b"") }.signed();
        let body = format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n");
        let mut request = parts.map(|_| Full::new(Bytes::from(body)));
        request.headers_mut().remove("content-length");
        request
    };
    for extension in [String::new(), format!(";chunk-signature={}", "0".repeat(64))] {
        let told = client.send(put(&extension)).await;
        assert_eq!(told.status, StatusCode::BAD_REQUEST, "{}", told.body);
    }
    client.call("GET", "/artifacts/key", b"").await.is(404, "NoSuchKey");
}
