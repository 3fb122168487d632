//! TLS, and clients that show certificates.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;

use rcgen::CertifiedKey;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::*;
use crate::access::fingerprint;

fn made() -> CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

#[tokio::test]
async fn who_shows_a_certificate_of_the_authority_is_known_by_it() {
    let (server, known, other, stranger) = (made(), made(), made(), made());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let config = ListenConfig {
        address: Some((Ipv4Addr::LOCALHOST, 0).into()),
        certificate: file("server.pem", server.cert.pem()),
        key: file("server.key", server.signing_key.serialize_pem()),
        client_ca: file("clients.pem", known.cert.pem() + &other.cert.pem()),
        ..ListenConfig::default()
    };
    let print = fingerprint(known.cert.der()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let clients = format!("[[certificates]]\nsha256 = \"{print}\"\naccount = \"{ACCOUNT}\"\n");
    let running = serve_with(config, &clients).await;
    let address = format!("https://localhost:{}", running.address.unwrap().port());
    let list = async |shown: Option<&CertifiedKey<rcgen::KeyPair>>, key: Option<&str>| {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(server.cert.pem()));
        if let Some(shown) = shown {
            tls = tls.identity(Identity::from_pem(shown.cert.pem(), shown.signing_key.serialize_pem()));
        }
        let channel = Endpoint::from_shared(address.clone()).unwrap().tls_config(tls).unwrap().connect_lazy();
        let mut request = Request::new(proto::ListMicrovmsRequest::default());
        if let Some(key) = key {
            let value = format!("Basic {}", STANDARD.encode(key));
            request.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        MicrovmServiceClient::new(channel).list_microvms(request).await.map(drop)
    };
    list(Some(&known), None).await.unwrap();
    assert_eq!(list(None, None).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(list(Some(&other), None).await.unwrap_err().code(), Code::Unauthenticated);
    // A key is known with and without a certificate; this one may not list.
    for shown in [None, Some(&other)] {
        let status = list(shown, Some("reader:0123456789abcdef")).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    // A certificate of another authority ends the connection before any call.
    let code = list(Some(&stranger), None).await.unwrap_err().code();
    assert!(matches!(code, Code::Unknown | Code::Unavailable), "{code:?}");
    let plain = Endpoint::from_shared(address.replace("https", "http")).unwrap().connect_lazy();
    MicrovmServiceClient::new(plain).list_microvms(proto::ListMicrovmsRequest::default()).await.unwrap_err();
}
