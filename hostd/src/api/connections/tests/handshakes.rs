//! Clients that do not finish what they begin.

use std::fs;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use tokio_rustls::TlsConnector;

use super::*;
use crate::api::tls::TlsFiles;
use crate::certificates::authority::{Authority, Validity};
use crate::clock::Clock;

/// TLS for `localhost`, and a client that trusts it.
fn tls() -> (Tls, TlsConnector) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let valid = Validity::around(OffsetDateTime::now_utc(), time::Duration::days(30));
    let authority = Authority::new("A", None, valid).unwrap();
    let signed = authority.sign("B", &["localhost".to_owned()], valid).unwrap();
    fs::write(path("c.pem"), &signed.pem).unwrap();
    fs::write(path("c.key"), &signed.key_pem).unwrap();
    let files = TlsFiles {
        section: "listen",
        certificate: path("c.pem"),
        key: path("c.key"),
        client_ca: None,
        protocols: &[b"h2"],
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    (Tls::open(files, Clock::system()).unwrap(), TlsConnector::from(Arc::new(client)))
}

async fn nothing() -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::new()))
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_handshake_is_not_kept() {
    let (tls, _) = tls();
    // Nothing, and the first bytes of a ClientHello.
    for sent in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut opened = open(Some(&tls), nothing);
        let began = Instant::now();
        opened.client.write_all(sent).await.unwrap();
        assert_eq!(rest(&mut opened.client).await, b"");
        opened.served.await.unwrap();
        assert_eq!(began.elapsed(), limits().0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_greet_is_not_kept() {
    let (tls, connector) = tls();
    for sent in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", b"GET / HTTP/1.1\r\n"] {
        let mut opened = open(None, nothing);
        let began = Instant::now();
        opened.client.write_all(sent).await.unwrap();
        rest(&mut opened.client).await;
        opened.served.await.unwrap();
        assert_eq!(began.elapsed(), limits().0, "{}", String::from_utf8_lossy(sent));

        let opened = open(Some(&tls), nothing);
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, opened.client).await.unwrap();
        let began = Instant::now();
        stream.write_all(sent).await.unwrap();
        rest(&mut stream).await;
        opened.served.await.unwrap();
        assert_eq!(began.elapsed(), limits().0, "{}", String::from_utf8_lossy(sent));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_only_greets_is_kept_for_as_long_as_an_idle_one() {
    let settings = frame(raw::SETTINGS, 0, 0, &[]);
    let unfinished = frame(raw::HEADERS, 0, 1, &raw::header(":method", "POST"));
    let idle = limits().1;
    // What a client says in the middle of its headers, like the answer to a ping, ends the connection at once.
    for (more, least) in [(settings.clone(), idle), ([settings, unfinished].concat(), Duration::ZERO)] {
        let mut opened = open(None, nothing);
        let began = Instant::now();
        opened.client.write_all(&[PREFACE, &more].concat()).await.unwrap();
        attend(&mut opened.client).await;
        opened.served.await.unwrap();
        assert!(began.elapsed() >= least && began.elapsed() <= idle + END, "{:?}", began.elapsed());
    }
}
