//! Where a registry or a store may lead to, and how much it may say.
//!
//! The scripted registries here are named in the configuration, as operators name their own: only so are they reached on the loopback.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hearth_host::roles::Secret;
use hearth_image_builder::artifact::{ArtifactConfig, RegistryConfig, S3Config};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::servers::serve;
use crate::{fetch_into, reason};

/// What a scripted server answers: status, headers, body.
type Script = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// Requests that a server has had: their paths, and their passwords.
type Log = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A server that answers as `script` says; returns `HOST:PORT` and its log.
async fn server(script: impl Fn(&str) -> Script + Clone + Send + Sync + 'static) -> (String, Log) {
    let log = Log::default();
    let requests = Arc::clone(&log);
    let service = service_fn(move |request: Request<Incoming>| {
        let (script, requests) = (script.clone(), Arc::clone(&requests));
        async move {
            let secret =
                request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            let path = request.uri().path_and_query().unwrap().as_str().to_owned();
            let (status, headers, body) = script(&path);
            requests.lock().unwrap().push((path, secret));
            let answer = headers
                .into_iter()
                .fold(Response::builder().status(status), |answer, (name, value)| answer.header(name, value));
            answer.body(Full::new(Bytes::from(body)))
        }
    });
    (serve(service).await.to_string(), log)
}

fn plain() -> RegistryConfig {
    RegistryConfig { plain_http: true, ..RegistryConfig::default() }
}

fn config(registry: &str, entry: RegistryConfig) -> ArtifactConfig {
    ArtifactConfig { registries: [(registry.to_owned(), entry.into())].into(), ..ArtifactConfig::default() }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

const LAYER: &[u8] = b"a layer";

fn configuration() -> Vec<u8> {
    json!({"architecture": "arm64", "os": "linux"}).to_string().into_bytes()
}

fn manifest() -> Vec<u8> {
    let config = configuration();
    json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(LAYER), "size": LAYER.len()}],
    })
    .to_string()
    .into_bytes()
}

/// A registry with one image, whose layer is at `layer_at` where that is given.
fn image(path: &str, layer_at: Option<&str>) -> Script {
    match path {
        "/v2/" => (200, vec![], vec![]),
        path if path.contains("/manifests/") => (200, vec![], manifest()),
        path if path.ends_with(&digest(&configuration())) => (200, vec![], configuration()),
        path if path.ends_with(&digest(LAYER)) => match layer_at {
            Some(at) => (307, vec![("location", at.to_owned())], vec![]),
            None => (200, vec![], LAYER.to_vec()),
        },
        _ => (404, vec![], vec![]),
    }
}

/// The reasons for which a private address, and one without TLS, is refused.
fn refused(name: &str, what: &str) -> String {
    format!(
        "CONTAINER_BUILD_FAILED: The image {name}/app:1 cannot be pulled: {what}. The operator can allow it by naming it in \
         endpoints of the registry."
    )
}

#[tokio::test]
async fn a_blob_is_not_fetched_from_where_guests_do_not_reach() {
    // A server that is there: what is refused is not refused because nobody listens.
    let (trap, trapped) = server(|_| (200, vec![], LAYER.to_vec())).await;
    let port = trap.rsplit_once(':').unwrap().1.to_owned();
    for (at, what) in [
        (format!("https://{trap}/x"), format!("{trap} has a loopback address, which builds do not reach")),
        (format!("http://{trap}/x"), format!("http://{trap} is not encrypted")),
        (
            format!("https://[::ffff:127.0.0.1]:{port}/"),
            format!("::ffff:127.0.0.1:{port} has a loopback address, which builds do not reach"),
        ),
        (
            "https://169.254.169.254/latest/".into(),
            "169.254.169.254:443 has a link-local address, which builds do not reach".into(),
        ),
        ("http://169.254.169.254/latest/".into(), "http://169.254.169.254:80 is not encrypted".into()),
        ("https://10.0.0.5/x".into(), "10.0.0.5:443 has a private address, which builds do not reach".into()),
    ] {
        let (name, _) = server({
            let at = at.clone();
            move |path: &str| image(path, Some(&at))
        })
        .await;
        assert_eq!(
            reason(config(&name, plain()), &format!("oci://{name}/app:1")).await,
            refused(&name, &what),
            "{at}"
        );
    }
    assert_eq!(trapped.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_name_is_refused_for_the_address_that_it_leads_to() {
    let (trap, trapped) = server(|_| (200, vec![], LAYER.to_vec())).await;
    let port = trap.rsplit_once(':').unwrap().1.to_owned();
    let at = format!("https://localhost:{port}/x");
    let (name, _) = server(move |path: &str| image(path, Some(&at))).await;
    let reason = reason(config(&name, plain()), &format!("oci://{name}/app:1")).await;
    assert!(reason.contains(&format!("localhost:{port} leads to ")), "{reason}");
    assert!(reason.contains("a loopback address, which builds do not reach. The operator can"), "{reason}");
    assert_eq!(trapped.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_server_that_the_operator_named_is_led_to_and_sees_no_password() {
    let (store, seen) = server(|_| (200, vec![], LAYER.to_vec())).await;
    let at = format!("http://{store}/blob?signature=x");
    let (name, asked) = server(move |path: &str| match path {
        "/v2/" => (401, vec![("www-authenticate", "Basic realm=\"x\"".to_owned())], vec![]),
        path => image(path, Some(&at)),
    })
    .await;
    let entry = RegistryConfig {
        endpoints: vec![format!("http://{store}")],
        username: Some("builder".to_owned()),
        password: Some(Secret::new("open sesame")),
        ..plain()
    };
    let work = tempfile::tempdir().unwrap();
    fetch_into(config(&name, entry), &format!("oci://{name}/app:1"), work.path()).await.0.unwrap();
    assert_eq!(*seen.lock().unwrap(), [("/blob?signature=x".to_owned(), None)]);
    let asked = asked.lock().unwrap();
    assert!(
        asked.iter().skip(1).all(|(_, secret)| secret.as_deref().is_some_and(|it| it.starts_with("Basic ")))
    );
}

/// A registry that wants a token of the server at `realm`.
fn with_tokens(realm: &str, path: &str) -> Script {
    let challenge = format!("Bearer realm=\"{realm}\",service=\"r\"");
    match path {
        "/v2/" => (401, vec![("www-authenticate", challenge)], vec![]),
        path => image(path, None),
    }
}

#[tokio::test]
async fn a_token_is_not_fetched_from_where_guests_do_not_reach() {
    let (trap, trapped) = server(|_| (200, vec![], b"{\"token\":\"x\"}".to_vec())).await;
    for (realm, what) in [
        (
            format!("https://{trap}/token"),
            format!("{trap} has a loopback address, which builds do not reach"),
        ),
        (
            "https://192.168.1.1/token".into(),
            "192.168.1.1:443 has a private address, which builds do not reach".into(),
        ),
        (format!("http://{trap}/token"), format!("http://{trap} is not encrypted")),
    ] {
        let (name, _) = server(move |path: &str| with_tokens(&realm, path)).await;
        let entry = RegistryConfig {
            username: Some("builder".to_owned()),
            password: Some(Secret::new("open sesame")),
            ..plain()
        };
        assert_eq!(reason(config(&name, entry), &format!("oci://{name}/app:1")).await, refused(&name, &what));
    }
    assert_eq!(trapped.lock().unwrap().len(), 0, "no password came there");
}

#[tokio::test]
async fn a_token_of_a_server_that_is_named_opens_the_registry() {
    let (tokens, asked) = server(|_| (200, vec![], b"{\"access_token\":\"abc\"}".to_vec())).await;
    let realm = format!("http://{tokens}/token");
    let (name, seen) = server(move |path: &str| with_tokens(&realm, path)).await;
    let entry = RegistryConfig { endpoints: vec![format!("http://{tokens}")], ..plain() };
    let work = tempfile::tempdir().unwrap();
    fetch_into(config(&name, entry), &format!("oci://{name}/app:1"), work.path()).await.0.unwrap();
    assert_eq!(*asked.lock().unwrap(), [("/token?scope=repository%3Aapp%3Apull&service=r".to_owned(), None)]);
    let seen = seen.lock().unwrap();
    assert!(seen.iter().skip(1).all(|(_, secret)| secret.as_deref() == Some("Bearer abc")), "{seen:?}");
}

#[tokio::test]
async fn what_a_registry_says_is_bounded() {
    let endless = || b" ".repeat(70 << 10);
    let (tokens, _) = server(move |_| (200, vec![], endless())).await;
    let realm = format!("http://{tokens}/token");
    let (name, _) = server(move |path: &str| with_tokens(&realm, path)).await;
    let entry = RegistryConfig { endpoints: vec![format!("http://{tokens}")], ..plain() };
    let of_token = reason(config(&name, entry), &format!("oci://{name}/app:1")).await;
    assert!(of_token.ends_with("has a registry whose token is too large."), "{of_token}");

    let (name, _) = server(|path: &str| match path {
        "/v2/" => (200, vec![], vec![]),
        _ => (200, vec![], b" ".repeat((4 << 20) + 1)),
    })
    .await;
    let of_manifest = reason(config(&name, plain()), &format!("oci://{name}/app:1")).await;
    assert!(of_manifest.ends_with("has a manifest that is too large."), "{of_manifest}");

    let (name, _) = server(|_| (200, vec![("x", "x".repeat(100 << 10))], vec![])).await;
    let of_head = reason(config(&name, plain()), &format!("oci://{name}/app:1")).await;
    assert_eq!(of_head, "INTERNAL_PLATFORM_ERROR: The code artifact could not be fetched.");

    let (name, log) = server(|path: &str| (302, vec![("location", format!("{path}x"))], vec![])).await;
    let of_circle = reason(config(&name, plain()), &format!("oci://{name}/app:1")).await;
    assert!(of_circle.contains("leads on more than 5 times"), "{of_circle}");
    assert_eq!(log.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn a_registry_that_is_not_named_is_no_way_to_private_addresses() {
    let all = |name: &str| {
        config("*", RegistryConfig { accounts: Some(vec![name.to_owned()]), ..RegistryConfig::default() })
    };
    for (registry, what) in [
        ("127.0.0.1:5000", "127.0.0.1:5000 has a loopback address"),
        ("169.254.169.254", "169.254.169.254:443 has a link-local address"),
        ("10.0.0.5", "10.0.0.5:443 has a private address"),
    ] {
        assert_eq!(
            reason(all("*"), &format!("oci://{registry}/app:1")).await,
            format!(
                "CONTAINER_BUILD_FAILED: The image {registry}/app:1 cannot be pulled: {what}, which builds do not reach. The \
                 operator can allow it by naming it in artifacts.registries."
            )
        );
    }
}

#[tokio::test]
async fn a_store_leads_nowhere_else_and_its_errors_are_bounded() {
    let (trap, trapped) = server(|_| (200, vec![], LAYER.to_vec())).await;
    let config = |endpoint: &str| ArtifactConfig {
        s3: S3Config {
            endpoint: Some(format!("http://{endpoint}")),
            allow_http: true,
            max_retries: 0,
            ..S3Config::default()
        },
        ..ArtifactConfig::default()
    };
    let at = format!("https://{trap}/x");
    let (store, _) = server(move |_| (307, vec![("location", at.clone())], vec![])).await;
    assert_eq!(
        reason(config(&store), "s3://artifacts/app.zip").await,
        format!(
            "S3_ACCESS_DENIED: {trap} has a loopback address, which builds do not reach. The operator can allow it by naming it \
             in artifacts.s3.endpoint."
        )
    );
    assert_eq!(trapped.lock().unwrap().len(), 0);
    let (store, _) = server(|_| (403, vec![], b"x".repeat(1 << 20))).await;
    let endless = reason(config(&store), "s3://artifacts/app.zip").await;
    assert_eq!(endless, "INTERNAL_PLATFORM_ERROR: The code artifact could not be fetched.");
}

/// A registry over TLS on the loopback; returns `HOST:PORT` and the PEM of its certificate.
async fn over_tls() -> (String, String) {
    hearth_host::http::install_tls();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust the certificate ends the handshake.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service_fn(|request: Request<Incoming>| async move {
                let (status, _, body) = image(request.uri().path(), None);
                Response::builder().status(status).body(Full::new(Bytes::from(body)))
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move {
                let _ = connection.await;
            });
        }
    });
    (address.to_string(), made.cert.pem())
}

#[tokio::test]
async fn a_registry_over_tls_has_a_certificate_of_an_authority_that_is_known() {
    let (name, pem) = over_tls().await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, pem).unwrap();
    let uri = format!("oci://{name}/app:1");
    let trusted = RegistryConfig { ca_file: Some(ca_file), ..RegistryConfig::default() };
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    fetch_into(config(&name, trusted), &uri, &work).await.0.unwrap();
    let other = tempfile::tempdir().unwrap();
    let error = fetch_into(config(&name, RegistryConfig::default()), &uri, other.path()).await.0.unwrap_err();
    assert_eq!(
        error.state_reason().to_string(),
        "INTERNAL_PLATFORM_ERROR: The code artifact could not be fetched."
    );
    assert!(error.to_string().contains("ertificate"), "{error}");
}
