//! Uploads over TLS as AWS's SDK for Go makes them: the whole body is one chunk that is not signed, and its checksum follows.

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SigningSettings, UriPathNormalizationMode,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use s3s::crypto::{Checksum as _, Md5};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::access::hex;

/// Size of the upload, in bytes.
const SIZE: usize = 40 << 20;

/// The request line and the headers of a request to the bucket, signed, without the empty line at their end.
fn signed(method: &str, payload: &str, headers: &[(&str, &str)]) -> String {
    let (key, secret, _) = KEYS[0];
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let (service, payload, time) = ("s3", Some(payload), SystemTime::now());
    let signer = Signer { key, secret, service, time, payload, settings, ..Signer::default() };
    let path = "/hearth-local/big.zip";
    let parts = signer.sign(method, path, headers, b"").parts;
    let lines = parts.headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
    format!("{method} {path} HTTP/1.1\r\n{}connection: close\r\n", lines.collect::<String>())
}

async fn connect(server: &Server, folder: &Path) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, server.connect().await).await.unwrap()
}

#[tokio::test]
async fn a_body_in_one_chunk_is_stored_if_its_checksum_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(certified(folder.path())).await;
    let data: Vec<u8> = (0..SIZE).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[2]).collect();
    let crc = crc32fast::hash(&data);
    let mut md5 = Md5::new();
    md5.update(&data);
    let etag = format!("etag: \"{}\"\r\n", hex(&md5.finalize()));
    let length = SIZE.to_string();
    let headers = [
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", length.as_str()),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
    ];
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for (crc, answered, stored) in [
        (!crc, ["HTTP/1.1 400 ", "<Code>BadDigest</Code>"], ["HTTP/1.1 404 ", "\r\n"]),
        (crc, ["HTTP/1.1 200 ", &etag], ["HTTP/1.1 200 ", "content-length: 41943040\r\n"]),
    ] {
        let crc = STANDARD.encode(crc.to_be_bytes());
        let (begin, end) = (format!("{SIZE:x}\r\n"), format!("\r\n0\r\nx-amz-checksum-crc32:{crc}\r\n\r\n"));
        let head = signed("PUT", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", &headers);
        let head = format!("{head}content-length: {}\r\n\r\n", begin.len() + SIZE + end.len());
        let mut stream = connect(&server, folder.path()).await;
        for part in [head.as_bytes(), begin.as_bytes(), &data, end.as_bytes()] {
            stream.write_all(part).await.unwrap();
        }
        // What the socket had no room for is in the TLS session still, and reading does not send it.
        stream.flush().await.unwrap();
        let answer = rest(stream).await;
        assert!(answered.iter().all(|part| answer.contains(part)), "{answer}");
        let mut stream = connect(&server, folder.path()).await;
        let head = signed("HEAD", nothing, &[]) + "\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let answer = rest(stream).await;
        assert!(stored.iter().all(|part| answer.contains(part)), "{answer}");
    }
}

/// Everything that comes until the server closes.
async fn rest(mut stream: TlsStream<TcpStream>) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
