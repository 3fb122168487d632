//! TLS handshakes as clients perform them, and certificates that change in the meantime.

use std::fs;
use std::io;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::certificates::authority::{Authority, Signed, Validity};
use crate::proxy::acme::tests::authority::FakeAuthority;
use crate::proxy::config::AcmeConfig;
use crate::proxy::dns::Dns;

const DOMAIN: &str = "lambda-microvm.us-east-1.localhost";
const ENDPOINT: &str = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f1.lambda-microvm.us-east-1.localhost";
const DAY: u64 = 24 * 3600;

fn client(roots: &str, versions: &[&'static SupportedProtocolVersion], protocols: &[&[u8]]) -> ClientConfig {
    let mut store = RootCertStore::empty();
    store.add(CertificateDer::from_pem_slice(roots.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// The result of a client's handshake.
#[derive(Debug)]
struct Shaken {
    version: ProtocolVersion,
    protocol: Option<Vec<u8>>,
    kind: HandshakeKind,
    certificate: CertificateDer<'static>,
}

async fn shake(tls: &Tls, client: &Arc<ClientConfig>, name: &'static str) -> io::Result<Shaken> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let acceptor = TlsAcceptor::from(tls.config());
    let server = tokio::spawn(async move {
        let mut stream = acceptor.accept(far).await?;
        stream.write_all(b"x").await?;
        stream.shutdown().await
    });
    let name = ServerName::try_from(name).unwrap();
    let connected = TlsConnector::from(Arc::clone(client)).connect(name, near).await;
    let mut stream = connected?;
    // The session tickets arrive before this byte.
    stream.read_exact(&mut [0; 1]).await?;
    let (_, connection) = stream.get_ref();
    let shaken = Shaken {
        version: connection.protocol_version().unwrap(),
        protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
        kind: connection.handshake_kind().unwrap(),
        certificate: connection.peer_certificates().unwrap()[0].clone(),
    };
    drop(stream);
    let _ = server.await.unwrap(); // an error means that the client has disconnected
    Ok(shaken)
}

fn local(data: &Path) -> Tls {
    Tls::open(&EndpointConfig::default(), DOMAIN, data, Clock::system()).unwrap()
}

#[tokio::test]
async fn both_versions_and_both_protocols_are_spoken() {
    let data = tempfile::tempdir().unwrap();
    let tls = local(data.path());
    let roots = tls.authority_pem().unwrap();
    for (version, number) in [(&TLS13, ProtocolVersion::TLSv1_3), (&TLS12, ProtocolVersion::TLSv1_2)] {
        for (offered, spoken) in [
            ([b"http/1.1".as_slice(), b"h2"].as_slice(), Some(b"h2".to_vec())),
            (&[b"http/1.1"], Some(b"http/1.1".to_vec())),
            (&[], None),
        ] {
            let client = Arc::new(client(roots, &[version], offered));
            let shaken = shake(&tls, &client, ENDPOINT).await.unwrap();
            assert_eq!((shaken.version, shaken.protocol), (number, spoken));
            assert_eq!(shaken.kind, HandshakeKind::Full);
            assert_eq!(shake(&tls, &client, ENDPOINT).await.unwrap().kind, HandshakeKind::Resumed);
        }
    }
}

#[tokio::test]
async fn the_certificate_is_for_names_of_the_domain_alone() {
    let data = tempfile::tempdir().unwrap();
    let tls = local(data.path());
    let client = Arc::new(client(tls.authority_pem().unwrap(), &[&TLS13], &[]));
    for (name, good) in [
        (ENDPOINT, true),
        (DOMAIN, true),
        ("a.b.lambda-microvm.us-east-1.localhost", false),
        ("localhost", false),
        ("example.com", false),
        ("127.0.0.1", false),
    ] {
        assert_eq!(shake(&tls, &client, name).await.is_ok(), good, "{name}");
    }
}

#[tokio::test]
async fn what_the_local_authority_signs_for_others_is_worthless() {
    // As if somebody had stolen the authority's key.
    let data = tempfile::tempdir().unwrap();
    let tls = local(data.path());
    let roots = tls.authority_pem().unwrap().to_owned();
    let key = fs::read_to_string(data.path().join(FOLDER).join("ca.key")).unwrap();
    let stolen = Authority::load(roots.clone(), key).unwrap();
    let valid = Validity::around(OffsetDateTime::now_utc(), time::Duration::days(30));
    for (name, names, good) in [
        (ENDPOINT, vec![ENDPOINT], true),
        ("bank.example", vec!["bank.example"], false),
        ("127.0.0.1", vec!["127.0.0.1"], false),
        (ENDPOINT, vec![ENDPOINT, "bank.example"], false),
    ] {
        let names: Vec<_> = names.into_iter().chain([&*format!("*.{DOMAIN}")]).map(str::to_owned).collect();
        let signed = stolen.sign("thief", &names, valid).unwrap();
        let provider = default_provider();
        let pair = Pair::from_pem(signed.pem.as_bytes(), signed.key_pem.as_bytes(), DOMAIN, &provider);
        tls.0.served.set(pair.unwrap());
        let client = Arc::new(client(&roots, &[&TLS13], &[]));
        assert_eq!(shake(&tls, &client, name).await.is_ok(), good, "{names:?}");
    }
}

#[tokio::test]
async fn the_authority_outlives_the_daemon() {
    let data = tempfile::tempdir().unwrap();
    let first = local(data.path());
    let client = Arc::new(client(first.authority_pem().unwrap(), &[&TLS13], &[]));
    let second = local(data.path());
    assert_eq!(second.authority_pem(), first.authority_pem());
    shake(&second, &client, ENDPOINT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_local_authoritys_certificate_is_renewed_before_it_ends() {
    let data = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(SystemTime::now());
    let tls = Tls::open(&EndpointConfig::default(), DOMAIN, data.path(), clock).unwrap();
    let task = tokio::spawn(tls.clone().keep_current());
    let first = tls.0.served.get();
    tokio::time::sleep(Duration::from_secs(58 * DAY)).await;
    assert!(tls.0.served.get().is_same(&first));
    tokio::time::sleep(Duration::from_secs(2 * DAY)).await;
    let second = tls.0.served.get();
    assert!(!second.is_same(&first) && second.until() > first.until());
    tokio::time::sleep(Duration::from_secs(60 * DAY)).await;
    assert!(!tls.0.served.get().is_same(&second));
    task.abort();
}

/// Certificates in files, and the authority that has signed them.
struct Written {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Written {
    fn new() -> Self {
        let valid = Validity::around(OffsetDateTime::now_utc(), time::Duration::days(3650));
        let authority = Authority::new("Company", None, valid).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), authority }
    }

    fn sign(&self, name: &str, days: i64) -> Signed {
        let valid = Validity::around(OffsetDateTime::now_utc(), time::Duration::days(days));
        self.authority.sign("endpoints", &[name.to_owned()], valid).unwrap()
    }

    fn write(&self, certificate: &str, key: &str) {
        fs::write(self.folder.path().join("c.pem"), certificate).unwrap();
        fs::write(self.folder.path().join("c.key"), key).unwrap();
    }

    fn open(&self) -> Result<Tls, TlsError> {
        let folder = self.folder.path();
        let config = EndpointConfig {
            certificate: Some(folder.join("c.pem")),
            key: Some(folder.join("c.key")),
            ..EndpointConfig::default()
        };
        Tls::open(&config, DOMAIN, folder, Clock::simulated(SystemTime::now()))
    }
}

#[tokio::test(start_paused = true)]
async fn files_are_read_again_when_they_change_and_bad_ones_change_nothing() {
    let written = Written::new();
    let (first, second) =
        (written.sign(&format!("*.{DOMAIN}"), 30), written.sign(&format!("*.{DOMAIN}"), 60));
    written.write(&first.pem, &first.key_pem);
    let tls = written.open().unwrap();
    assert_eq!(tls.authority_pem(), None);
    assert!(!tls.reload().unwrap());
    // A client that resumes a session sees no certificate.
    let served = async || {
        let client = Arc::new(client(written.authority.pem(), &[&TLS13, &TLS12], &[]));
        shake(&tls, &client, ENDPOINT).await.unwrap().certificate
    };
    let der = |signed: &Signed| CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap();
    assert_eq!(served().await, der(&first));

    // Only the certificate has been replaced so far, not the key.
    written.write(&second.pem, &first.key_pem);
    assert!(tls.reload().unwrap_err().to_string().contains("not that of the certificate"));
    let task = tokio::spawn(tls.clone().keep_current());
    tokio::time::sleep(2 * RELOAD_INTERVAL).await;
    assert_eq!(served().await, der(&first));
    assert!(tls.0.reported.lock().unwrap().as_ref().unwrap().contains("the old certificate is kept"));

    written.write(&second.pem, &second.key_pem);
    tokio::time::sleep(2 * RELOAD_INTERVAL).await;
    assert_eq!(served().await, der(&second));
    assert_eq!(*tls.0.reported.lock().unwrap(), None);
    task.abort();

    written.write(&first.pem, &first.key_pem);
    assert!(tls.reload().unwrap());
    assert_eq!(served().await, der(&first));
}

#[test]
fn files_that_cannot_be_used_say_what_is_wrong_with_them() {
    let written = Written::new();
    let good = written.sign(&format!("*.{DOMAIN}"), 30);
    let other = written.sign("*.example.com", 30);
    for (certificate, key, told) in [
        (good.pem.as_str(), other.key_pem.as_str(), "not that of the certificate"),
        (&other.pem, &other.key_pem, "for *.example.com, and has to be for *.lambda-microvm"),
        (&good.key_pem, &good.key_pem, "the file of the certificate has none"),
        (&good.pem, &good.pem, "the file of the key has none"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &good.key_pem, "damaged"),
        (&good.pem, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be used"),
    ] {
        written.write(certificate, key);
        let error = written.open().unwrap_err().to_string();
        assert!(error.contains(told) && error.contains("endpoint.key"), "{told}: {error}");
    }
    fs::remove_file(written.folder.path().join("c.key")).unwrap();
    let error = written.open().unwrap_err().to_string();
    assert!(error.starts_with("endpoint.key (") && error.contains("c.key"), "{error}");
}

#[test]
fn a_certificate_that_has_ended_is_served_and_told_about() {
    let written = Written::new();
    for (days, told) in [(-1, "ended 2 days ago"), (4, "ends in 2 days"), (30, "")] {
        // The certificates begin to be valid a day ago.
        let signed = written.sign(&format!("*.{DOMAIN}"), days);
        written.write(&signed.pem, &signed.key_pem);
        let tls = written.open().unwrap();
        let problem = tls.0.reported.lock().unwrap().clone().unwrap_or_default();
        assert!(problem.contains(told) && problem.is_empty() == told.is_empty(), "{days}: {problem}");
    }
}

fn acme(directory: &str, ca_file: &Path) -> EndpointConfig {
    let acme =
        AcmeConfig { directory: directory.to_owned(), contact: None, ca_file: Some(ca_file.to_owned()) };
    EndpointConfig { acme: Some(acme), dns: Some(([127, 0, 0, 1], 0).into()), ..EndpointConfig::default() }
}

#[tokio::test]
async fn the_local_authoritys_certificate_is_served_until_acme_has_issued_one() {
    let data = tempfile::tempdir().unwrap();
    let mut authority = FakeAuthority::bind(data.path()).await;
    let config = acme(&authority.directory(), authority.ca_file());
    let tls = Tls::open(&config, DOMAIN, data.path(), Clock::system()).unwrap();
    assert_eq!(tls.authority_pem(), None);
    let dns = Dns::bind(&config, DOMAIN, tls.challenges()).await.unwrap().unwrap();
    authority.ask(dns.address().unwrap());
    let issuer = authority.issuer();
    tokio::spawn(dns.serve());
    tokio::spawn(authority.serve());

    let own = fs::read_to_string(data.path().join(FOLDER).join("ca.pem")).unwrap();
    shake(&tls, &Arc::new(client(&own, &[&TLS13], &[])), ENDPOINT).await.unwrap();
    let task = tokio::spawn(tls.clone().keep_current());
    let public = Arc::new(client(&issuer, &[&TLS13], &[]));
    while shake(&tls, &public, ENDPOINT).await.is_err() {
        tokio::task::yield_now().await;
    }
    task.abort();
    // The next daemon serves the issued certificate from the start.
    let again = Tls::open(&config, DOMAIN, data.path(), Clock::system()).unwrap();
    shake(&again, &public, ENDPOINT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn endpoints_stay_up_however_long_an_acme_authority_is_away() {
    let data = tempfile::tempdir().unwrap();
    let authority = FakeAuthority::bind(data.path()).await;
    let config = acme(&authority.directory(), authority.ca_file());
    drop(authority);
    let clock = Clock::simulated(SystemTime::now());
    let tls = Tls::open(&config, DOMAIN, data.path(), clock).unwrap();
    let task = tokio::spawn(tls.clone().keep_current());
    let first = tls.0.served.get();
    tokio::time::sleep(Duration::from_secs(100 * DAY)).await;
    let second = tls.0.served.get();
    assert!(!second.is_same(&first) && second.until() > clock.now());
    task.abort();
}
