//! The part of an ACME authority that an order for a domain needs. It queries DNS as real ones do, but does not check
//! signatures.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::certificates::authority::{Authority, Validity};

/// Record of the requests of clients.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct Seen {
    pub(in crate::proxy) accounts: usize,
    pub(in crate::proxy) orders: usize,
    pub(in crate::proxy) contacts: Vec<String>,
    thumbprint: String,
    /// The domain of the order.
    domain: String,
    /// Outcomes of the challenges, by authorization.
    proved: [Option<bool>; 2],
    certificate: Option<String>,
}

/// An authority, bound but not yet serving.
pub(in crate::proxy) struct FakeAuthority {
    listener: TcpListener,
    tls: TlsAcceptor,
    ca_file: PathBuf,
    dns: SocketAddr,
    issuer: Arc<CertifiedIssuer<'static, KeyPair>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Clone)]
struct State {
    base: String,
    dns: SocketAddr,
    issuer: Arc<CertifiedIssuer<'static, KeyPair>>,
    seen: Arc<Mutex<Seen>>,
}

impl FakeAuthority {
    /// Binds an authority to a port of this machine. The certificate of the authority that signs its TLS certificate is
    /// written into the folder.
    pub(in crate::proxy) async fn bind(folder: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let valid = Validity::around(OffsetDateTime::now_utc(), time::Duration::days(30));
        let roots = Authority::new("Web", None, valid).unwrap();
        let server = roots.sign("acme", &["127.0.0.1".to_owned()], valid).unwrap();
        let ca_file = folder.join("web.pem");
        fs::write(&ca_file, roots.pem()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(server.pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let mut issuer = CertificateParams::new(Vec::new()).unwrap();
        issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(issuer, KeyPair::generate().unwrap()).unwrap();
        Self {
            listener,
            tls: TlsAcceptor::from(Arc::new(tls)),
            ca_file,
            dns: ([127, 0, 0, 1], 0).into(),
            issuer: Arc::new(issuer),
            seen: Arc::default(),
        }
    }

    /// Sets the DNS server that the authority queries.
    pub(in crate::proxy) fn ask(&mut self, dns: SocketAddr) {
        self.dns = dns;
    }

    pub(in crate::proxy) fn directory(&self) -> String {
        format!("https://{}/directory", self.listener.local_addr().unwrap())
    }

    pub(in crate::proxy) fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// The certificate with which it signs the certificates that it issues, PEM.
    pub(in crate::proxy) fn issuer(&self) -> String {
        self.issuer.pem()
    }

    pub(in crate::proxy) fn seen(&self) -> Arc<Mutex<Seen>> {
        Arc::clone(&self.seen)
    }

    pub(in crate::proxy) async fn serve(self) {
        let state = State {
            base: format!("https://{}", self.listener.local_addr().unwrap()),
            dns: self.dns,
            issuer: self.issuer,
            seen: self.seen,
        };
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = self.listener.accept().await.unwrap();
            connections.spawn(connection(stream, self.tls.clone(), state.clone()));
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, state: State) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(state.answer(request).await) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await; // an error means that the client has disconnected
}

fn decoded(text: &Value) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap();
    if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let (mut protected, mut payload) = (Value::Null, Value::Null);
        if !body.is_empty() {
            let message: Value = serde_json::from_slice(&body).unwrap();
            (protected, payload) = (decoded(&message["protected"]), decoded(&message["payload"]));
        }
        let (status, location, body) = self.act(&path, &protected, &payload).await;
        let mut response = Response::builder().status(status).header("replay-nonce", "none");
        if let Some(location) = location {
            response = response.header("location", format!("{}{location}", self.base));
        }
        response.body(Full::new(Bytes::from(body))).unwrap()
    }

    async fn act(
        &self,
        path: &str,
        protected: &Value,
        payload: &Value,
    ) -> (StatusCode, Option<&'static str>, String) {
        let url = |path: &str| format!("{}{path}", self.base);
        let ok = |body: Value| (StatusCode::OK, None, body.to_string());
        match path.rsplit_once('/').unwrap() {
            ("", "directory") => ok(json!({
                "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order"),
                "revokeCert": url("/revoke"), "keyChange": url("/key"),
            })),
            ("", "nonce") => (StatusCode::OK, None, String::new()),
            ("", "account") => {
                let key = &protected["jwk"];
                // RFC 7638: these members, in this order.
                let canonical = format!(
                    r#"{{"crv":{},"kty":{},"x":{},"y":{}}}"#,
                    key["crv"], key["kty"], key["x"], key["y"]
                );
                let mut seen = self.seen.lock().unwrap();
                seen.accounts += 1;
                seen.thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(canonical));
                seen.contacts = payload["contact"]
                    .as_array()
                    .map(|contacts| contacts.iter().map(|text| text.as_str().unwrap().to_owned()).collect())
                    .unwrap_or_default();
                (StatusCode::CREATED, Some("/account/1"), json!({"status": "valid"}).to_string())
            }
            ("", "order") => {
                let names = payload["identifiers"].as_array().unwrap();
                let names: Vec<_> = names.iter().map(|name| name["value"].as_str().unwrap()).collect();
                assert_eq!(names[1], format!("*.{}", names[0]));
                let mut seen = self.seen.lock().unwrap();
                seen.orders += 1;
                (seen.proved, seen.certificate) = ([None; 2], None);
                names[0].clone_into(&mut seen.domain);
                drop(seen);
                (StatusCode::CREATED, Some("/order/1"), self.order().to_string())
            }
            ("/order", _) => ok(self.order()),
            ("/authorization", number) => ok(self.authorization(number.parse().unwrap())),
            ("/challenge", number) => {
                let number = number.parse().unwrap();
                let proved = self.proves(number).await;
                let taken = self.challenge(number);
                // The client learns the outcome from the order.
                self.seen.lock().unwrap().proved[number] = Some(proved);
                ok(taken)
            }
            ("", "finalize") => {
                self.issue(payload["csr"].as_str().unwrap());
                ok(self.order())
            }
            ("", "certificate") => {
                (StatusCode::OK, None, self.seen.lock().unwrap().certificate.clone().unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    fn order(&self) -> Value {
        let seen = self.seen.lock().unwrap();
        let status = match seen.proved {
            _ if seen.certificate.is_some() => "valid",
            [Some(true), Some(true)] => "ready",
            [Some(false), _] | [_, Some(false)] => "invalid",
            _ => "pending",
        };
        let url = |path: &str| format!("{}{path}", self.base);
        json!({
            "status": status,
            "authorizations": [url("/authorization/0"), url("/authorization/1")],
            "finalize": url("/finalize"),
            "certificate": url("/certificate"),
        })
    }

    fn status(&self, number: usize) -> &'static str {
        match self.seen.lock().unwrap().proved[number] {
            None => "pending",
            Some(true) => "valid",
            Some(false) => "invalid",
        }
    }

    fn authorization(&self, number: usize) -> Value {
        json!({
            "identifier": {"type": "dns", "value": "any"},
            "status": self.status(number),
            "wildcard": number == 1,
            "challenges": [self.challenge(number)],
        })
    }

    fn challenge(&self, number: usize) -> Value {
        let mut challenge = json!({
            "type": "dns-01",
            "url": format!("{}/challenge/{number}", self.base),
            "token": token(number),
            "status": self.status(number),
        });
        if self.status(number) == "invalid" {
            challenge["error"] = json!({
                "type": "urn:ietf:params:acme:error:unauthorized", "detail": "no TXT record is right",
            });
        }
        challenge
    }

    /// Queries DNS for the proof.
    async fn proves(&self, number: usize) -> bool {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.dns).await.unwrap();
        let Seen { domain, thumbprint, .. } = self.seen.lock().unwrap().clone();
        let mut query = Message::query();
        let name = Name::from_ascii(format!("_acme-challenge.{domain}.")).unwrap();
        query.add_query(Query::query(name, RecordType::TXT));
        socket.send(&query.to_vec().unwrap()).await.unwrap();
        let mut buffer = [0; 1500];
        let length = socket.recv(&mut buffer).await.unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        let proof = URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{}.{thumbprint}", token(number))));
        answer.answers.iter().any(|record| record.data.to_string() == proof)
    }

    fn issue(&self, request: &str) {
        let der = URL_SAFE_NO_PAD.decode(request).unwrap();
        let mut request = CertificateSigningRequestParams::from_der(&der.into()).unwrap();
        request.params.not_before = OffsetDateTime::now_utc() - time::Duration::DAY;
        request.params.not_after = OffsetDateTime::now_utc() + time::Duration::days(90);
        let certificate = request.signed_by(&self.issuer).unwrap().pem();
        self.seen.lock().unwrap().certificate = Some(format!("{certificate}{}", self.issuer.pem()));
    }
}

fn token(number: usize) -> String {
    format!("token-{number}")
}
