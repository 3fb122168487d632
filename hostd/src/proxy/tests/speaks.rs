//! Apps made by others, with plain text and with TLS: what a port speaks is found out, no app executes a request twice that
//! must not be, and requests arrive whole.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::process::{Child, Command};

use super::clients::PYTHON;
use super::hooks::{Program, compiled, written};
use super::*;

/// A host whose app has these servers.
struct Peers {
    host: Host,
    servers: HashMap<String, SocketAddr>,
    /// The next port of the app.
    next: AtomicU16,
    folder: tempfile::TempDir,
    _programs: Vec<Program>,
    nginx: Option<Child>,
}

impl Peers {
    /// The servers of Python.
    async fn python() -> Self {
        // Each thread has its own connections to apps, and finds out for itself what they speak.
        let host = Host::with(Wish { threads: 1, ..Wish::default() }).await;
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let next = AtomicU16::new(8100);
        let mut peers =
            Self { host, servers: HashMap::new(), next, folder, _programs: Vec::new(), nginx: None };
        let mut python = Command::new(PYTHON);
        python.arg(written(peers.folder.path(), "servers.py", include_str!("speaks/servers.py")));
        peers.start(python, 11).await;
        peers
    }

    /// The servers of Python, Node, Go, Java, and nginx.
    async fn all() -> Self {
        let mut peers = Self::python().await;
        let folder = peers.folder.path().to_owned();
        let mut node = Command::new("node");
        node.arg(written(&folder, "servers.js", include_str!("speaks/servers.js")));
        peers.start(node, 2).await;
        peers.go().await;
        let openssl = Command::new("openssl")
            .args(["pkcs12", "-export", "-passout", "pass:secret", "-in", "cert.pem", "-inkey", "key.pem"])
            .args(["-out", "key.p12"])
            .current_dir(&folder)
            .status();
        assert!(openssl.await.unwrap().success());
        let mut java = Command::new("java");
        java.arg("-XX:TieredStopAtLevel=1");
        java.arg(written(&folder, "Servers.java", include_str!("speaks/Servers.java")));
        peers.start(java, 2).await;
        peers.nginx().await;
        peers
    }

    /// Adds the servers of Go.
    async fn go(&mut self) {
        let go = compiled(self.folder.path(), include_str!("speaks/servers.go")).await;
        self.start(go, 2).await;
    }

    async fn start(&mut self, mut command: Command, servers: usize) {
        command.arg(self.folder.path());
        let program = Program::start(command, servers).await;
        self.servers.extend(program.servers.iter().cloned());
        self._programs.push(program);
    }

    /// Adds nginx, in front of Python's server.
    async fn nginx(&mut self) {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, two) = (free(), free());
        let (one, two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        let text = include_str!("speaks/nginx.conf")
            .replace("FOLDER", self.folder.path().to_str().unwrap())
            .replace("PORT0", &one.port().to_string())
            .replace("PORT1", &two.port().to_string())
            .replace("BEHIND", &self.servers["python"].port().to_string());
        let mut command = Command::new("nginx");
        command.arg("-c").arg(written(self.folder.path(), "nginx.conf", &text));
        command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.nginx = Some(command.spawn().expect("`cargo xtask test` installs nginx"));
        let listens = async {
            while TcpStream::connect(two).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, listens).await.expect("nginx does not start");
        self.servers.extend([("nginx-tls".to_owned(), one), ("nginx-redirects".to_owned(), two)]);
    }

    /// A port of the app at which a server listens, and which has not been asked anything.
    fn port(&self, server: &str) -> u16 {
        let port = self.next.fetch_add(1, Ordering::Relaxed);
        self.listen(port, server);
        port
    }

    /// Lets a server listen at a port from now on.
    fn listen(&self, port: u16, server: &str) {
        self.host.platform.world().ports.insert(port, self.servers[server]);
    }

    /// How many connections were opened to a port.
    fn connections(&self, port: u16) -> usize {
        self.host.platform.world().connections.get(&port).copied().unwrap_or_default()
    }

    fn request(&self, port: u16, method: &str, path: &str, body: Body) -> Request<Body> {
        let mut request = self.host.request(method, path, body);
        request.headers_mut().insert("x-aws-proxy-port", port.into());
        request
    }

    /// Status and text of the answer.
    async fn send(&self, port: u16, method: &str, path: &str, body: Body) -> (u16, String) {
        let response = self.host.http2().await.send(self.request(port, method, path, body)).await;
        (response.status().as_u16(), text(response).await)
    }

    async fn get(&self, port: u16, path: &str) -> (u16, String) {
        self.send(port, "GET", path, nothing()).await
    }

    /// The number of requests that a server has executed so far, one that asks for it among them.
    async fn executed(&self, server: &str) -> usize {
        let (status, text) = self.get(self.port(server), "/").await;
        assert_eq!(status, 200, "{server}: {text}");
        text.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// A body without a length.
fn pieces(bytes: usize) -> Body {
    const PIECE: usize = 1 << 14;
    let sizes = (0..bytes.div_ceil(PIECE)).map(move |piece| PIECE.min(bytes - piece * PIECE));
    let frames = sizes.map(|size| Ok(Frame::data(Bytes::from(vec![7; size]))));
    BoxBody::new(StreamBody::new(stream::iter(frames)))
}

#[tokio::test]
async fn servers_of_tls_are_found_out_whatever_they_say_to_plain_text() {
    let peers = Peers::all().await;
    for server in [
        "python-tls",
        "node-tls",
        "go-tls",
        "java-tls",
        "nginx-tls",
        "nginx-redirects",
        "like-go",
        "redirects",
        "closes",
    ] {
        let mut before = peers.executed(server).await;
        for (method, length) in [("GET", 0), ("POST", 0), ("POST", 3), ("POST", 60_000), ("PUT", 3)] {
            let port = peers.port(server);
            for path in ["/", "/bad", "/"] {
                before += 1;
                let answer = peers.send(port, method, path, full(vec![7; length])).await;
                let status = if path == "/bad" { 400 } else { 200 };
                assert_eq!(answer, (status, format!("{method} {length} {before}")), "{server}");
            }
        }
        // Many at the same time, to a port that nobody has asked yet.
        let port = peers.port(server);
        let client = peers.host.http2().await;
        let asking = (0..10).map(|_| {
            let (mut client, request) = (client.clone(), peers.request(port, "POST", "/", full("abc")));
            async move { client.send(request).await.status().as_u16() }
        });
        assert_eq!(futures_util::future::join_all(asking).await, [200; 10], "{server}");
        assert_eq!(peers.executed(server).await, before + 11, "{server}");
    }
}

#[tokio::test]
async fn a_server_that_waits_in_silence_for_more_is_asked() {
    let peers = Peers::python().await;
    let port = peers.port("waits");
    assert_eq!(peers.get(port, "/").await, (200, "GET 0 1".to_owned()));
    assert_eq!(peers.send(port, "POST", "/", full("abc")).await, (200, "POST 3 2".to_owned()));
    // An app that is slow is asked, too, and goes on with the request.
    let port = peers.port("slow");
    assert_eq!(peers.send(port, "POST", "/", full("abc")).await, (200, "POST 3 1".to_owned()));
    assert_eq!(peers.connections(port), 2, "one of them is the question");
}

#[tokio::test]
async fn plain_servers_with_bad_requests_of_their_own_are_not_harmed() {
    let peers = Peers::all().await;
    for server in ["python", "python-1.0", "node", "go", "java", "single", "both"] {
        let mut before = peers.executed(server).await;
        for length in [0, 3, 300_000] {
            let port = peers.port(server);
            for path in ["/bad", "/bad", "/", "/bad"] {
                before += 1;
                let answer = peers.send(port, "POST", path, full(vec![7; length])).await;
                let status = if path == "/bad" { 400 } else { 200 };
                assert_eq!(answer, (status, format!("POST {length} {before}")), "{server}");
            }
            // One question, in all, and one more for both: whether it speaks plain text as well.
            let questions = if server == "both" { 2 } else { 1 };
            let connections = peers.connections(port);
            match server {
                "python-1.0" | "single" | "both" => assert_eq!(connections, 4 + questions, "{server}"),
                _ => assert!((2..=5).contains(&connections), "{server}: {connections}"),
            }
        }
        // An app that answers well is not asked anything.
        let port = peers.port(server);
        assert_eq!(peers.send(port, "POST", "/", full("abc")).await.0, 200);
        assert_eq!(peers.connections(port), 1, "{server}");
    }
}

#[tokio::test]
async fn another_server_at_the_same_port_is_asked_anew() {
    let peers = Peers::python().await;
    let port = peers.port("python-1.0");
    for server in ["like-go", "single", "closes", "python-1.0", "redirects", "python-1.0", "python-tls"] {
        peers.listen(port, server);
        for method in ["POST", "GET"] {
            let (status, text) = peers.send(port, method, "/", full("abc")).await;
            assert_eq!((status, text.starts_with(&format!("{method} 3 "))), (200, true), "{server}: {text}");
        }
    }
}

#[tokio::test]
async fn a_request_that_meets_the_end_of_a_kept_connection_goes_again_if_it_may() {
    let peers = Peers::python().await;
    let port = peers.port("races");
    for number in 1..=6 {
        assert_eq!(peers.get(port, "/").await, (200, format!("GET 0 {number}")));
    }
    for (number, method, body) in [
        (7, "DELETE", nothing()),
        (8, "PUT", full("abc")),
        (9, "PUT", full(vec![7; 60_000])),
        (10, "PUT", full("abc")),
    ] {
        let (status, text) = peers.send(port, method, "/", body).await;
        assert_eq!(
            (status, text.rsplit(' ').next()),
            (200, Some(number.to_string().as_str())),
            "{method}: {text}"
        );
    }
    // The client says that this may be executed twice.
    for number in 11..=14 {
        let mut request = peers.request(port, "POST", "/", full("abc"));
        request.headers_mut().insert("idempotency-key", number.into());
        let response = peers.host.http2().await.send(request).await;
        assert_eq!(text(response).await, format!("POST 3 {number}"));
    }
    // The app is known to do this: what must not be executed twice gets a connection of its own.
    for number in 15..=18 {
        assert_eq!(peers.send(port, "POST", "/", full("abc")).await, (200, format!("POST 3 {number}")));
    }
}

#[tokio::test]
async fn what_must_not_be_executed_twice_is_not_sent_again_and_is_spared_the_next_time() {
    let peers = Peers::python().await;
    let port = peers.port("races");
    assert_eq!(peers.get(port, "/").await.0, 200);
    let (status, text) = peers.send(port, "POST", "/", full("abc")).await;
    assert_eq!((status, text.as_str()), (502, ""));
    for number in 2..=4 {
        assert_eq!(peers.send(port, "POST", "/", full("abc")).await, (200, format!("POST 3 {number}")));
    }
    // Neither is a body that is too long to be kept.
    let port = peers.port("races");
    assert_eq!(peers.get(port, "/").await.0, 200);
    assert_eq!(peers.send(port, "PUT", "/", full(vec![7; 10 << 20])).await.0, 502);
    assert_eq!(peers.executed("races").await, 6);
}

#[tokio::test]
async fn a_get_with_a_body_arrives_whole_and_its_body_is_no_request() {
    let mut peers = Peers::python().await;
    peers.go().await;
    let (plain, tls) = (peers.port("go"), peers.port("go-tls"));
    for port in [plain, tls] {
        for length in [0, 3, 300_000] {
            for method in ["GET", "DELETE", "OPTIONS"] {
                let (status, got) = peers.send(port, method, "/", pieces(length)).await;
                assert_eq!((status, got.starts_with(&format!("{method} {length} "))), (200, true), "{got}");
                let mut request = peers.request(port, method, "/", pieces(length));
                request.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
                let answer = text(peers.host.http1().await.send(request).await).await;
                assert!(answer.starts_with(&format!("{method} {length} ")), "{answer}");
            }
            assert_eq!(peers.send(port, "HEAD", "/", pieces(length)).await, (200, String::new()));
        }
    }
    // Python's server does not read such a body.
    let port = peers.port("python");
    let smuggled = "GET /bad HTTP/1.1\r\nHost: a\r\n\r\n";
    for number in 1..=4 {
        let body = BoxBody::new(StreamBody::new(stream::iter([Ok(Frame::data(Bytes::from(smuggled)))])));
        let answer = if number % 2 == 0 {
            peers.get(port, "/").await
        } else {
            peers.send(port, "GET", "/", body).await
        };
        assert_eq!(answer, (200, format!("GET 0 {number}")));
    }
}

#[tokio::test]
async fn a_thousand_headers_pass_in_both_directions() {
    let mut peers = Peers::python().await;
    peers.go().await;
    let (plain, tls) = (peers.port("go"), peers.port("go-tls"));
    for port in [plain, tls] {
        for many in [150_usize, 950] {
            let request = || {
                // 33 bytes for each.
                let mut request =
                    peers.request(port, "GET", &format!("/headers/{many}?{}", "v".repeat(24)), nothing());
                for number in 0..many {
                    let name = hyper::header::HeaderName::try_from(format!("x-n{number}")).unwrap();
                    request.headers_mut().insert(name, "v".repeat(24).parse().unwrap());
                }
                request
            };
            for response in [
                peers.host.http1().await.send(request()).await,
                peers.host.http2().await.send(request()).await,
            ] {
                assert_eq!(response.status(), 200, "{many}");
                let come = response.headers().keys().filter(|name| name.as_str().starts_with("x-n")).count();
                assert_eq!(come, many);
                let went: usize = text(response).await.parse().unwrap();
                assert!((many..many + 10).contains(&went), "{went}");
            }
        }
        // Neither more nor longer ones.
        for (many, long) in [(1001, 1), (100, 1000)] {
            let request = || {
                let mut request = peers.request(port, "GET", "/", nothing());
                for number in 0..many {
                    let name = hyper::header::HeaderName::try_from(format!("x-n{number}")).unwrap();
                    request.headers_mut().insert(name, "v".repeat(long).parse().unwrap());
                }
                request
            };
            assert_eq!(peers.host.http1().await.send(request()).await.status(), 431, "{many} {long}");
            assert_eq!(peers.host.http2().await.send(request()).await.status(), 431, "{many} {long}");
            // Of an answer over HTTP/1.1, twice the buffer may be read before its size is looked at.
            let answer = peers.get(port, &format!("/headers/{many}?{}", "v".repeat(2 * long))).await;
            assert_eq!(answer.0, 502, "{many} {long}");
        }
    }
}
