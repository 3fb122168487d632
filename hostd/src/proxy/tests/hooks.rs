//! Hooks cannot be reached from outside, whichever server the app has. Several hundred spellings of a hook's path are
//! sent to servers made by others: directly, where each server treats some as the hook, and through the endpoint, where
//! none reaches it.

use std::collections::BTreeSet;
use std::process::Stdio;

use futures_util::future::join_all;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::process::{Child, Command};

use super::clients::PYTHON;
use super::*;

const HOOK: &str = "/aws/lambda-microvms/runtime/v1/suspend";
/// Folder of Debian's packages for Node, which a Node of another origin does not search.
const NODE_PACKAGES: &str = "/usr/share/nodejs";
const TOMCAT: &str = "/usr/share/java/tomcat10-embed-core.jar";
/// Timeout for the start of the servers: Go may compile its library first.
const START: Duration = Duration::from_secs(180);

/// Spellings of the path of a hook.
fn variants() -> BTreeSet<String> {
    const BEFORE: [&str; 20] = [
        "",
        "/",
        "//",
        "/.",
        "/..",
        "/;a",
        "/x/..",
        "/x;/..",
        "/x/..;",
        "/x/..;a=b",
        "/x%2fy/..",
        "/x%5cy/..",
        "/%2e",
        "/x/%2e%2e",
        "/x/%252e%252e",
        "/x\\..",
        "\\..",
        "/%2f",
        "/%5c",
        "/x%00/..",
    ];
    const AWS: [&str; 7] = ["aws", "aws;a", "AWS", "%61ws", "%2561ws", "%u0061ws", "aws%3ba"];
    const WORD: [&str; 15] = [
        "lambda-microvms",
        "lambda-microvms;a=b",
        "lambda-microvms;a=b;c",
        "lambda-microvms%3ba",
        "%6cambda-microvms",
        "lambda%2dmicrovms",
        "lambda%252Dmicrovms",
        "lambda%25252dmicrovms",
        "Lambda-MicroVMs",
        "LAMBDA-MICROVMS",
        "%u006cambda-microvms",
        "%ef%bd%8cambda-microvms",
        "%c1%acambda-microvms",
        "lambda%09-microvms",
        "lambda-microvms%0a",
    ];
    const SLASH: [&str; 10] = ["/", "//", "/./", "/x/../", "%2f", "%2F", "%252f", "\\", "%5c", ";/"];
    let path = |before: &str, aws: &str, word: &str, slash: &str| {
        format!("{before}/{aws}{slash}{word}{slash}runtime{slash}v1{slash}suspend")
    };
    let mut all = BTreeSet::new();
    for before in BEFORE {
        all.extend(WORD.map(|word| path(before, "aws", word, "/")));
        all.extend(SLASH.map(|slash| path(before, "aws", "lambda-microvms", slash)));
    }
    for word in WORD {
        all.extend(SLASH.map(|slash| path("", "aws", word, slash)));
        all.extend(AWS.map(|aws| path("", aws, word, "/")));
    }
    for end in ["/", ";a", "?a=b", "%3f", "#x", "%20", "%00", ".", "//", "/."] {
        all.insert(format!("{HOOK}{end}"));
    }
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    all.extend([format!("/{}", encoded(&HOOK[1..])), format!("/{}", encoded(&encoded(&HOOK[1..])))]);
    all.insert(format!("http://{}{HOOK}", Host::name()));
    all
}

/// A program with some servers, which exits when its input is closed.
pub(super) struct Program {
    pub(super) servers: Vec<(String, SocketAddr)>,
    _child: Child,
}

impl Program {
    /// Starts a program and waits for this number of servers.
    pub(super) async fn start(mut command: Command, servers: usize) -> Self {
        let starting = async {
            let needs = format!("{command:?} does not start; `cargo xtask test` installs what it needs");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut child = command.spawn().expect(&needs);
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut found = Vec::new();
            while found.len() < servers {
                let line = lines.next_line().await.unwrap().expect(&needs);
                let (name, port) = line.split_once(' ').expect(&needs);
                found.push((name.to_owned(), ([127, 0, 0, 1], port.parse().unwrap()).into()));
            }
            Self { servers: found, _child: child }
        };
        tokio::time::timeout(START, starting).await.expect("the servers do not start")
    }

    async fn node(folder: &std::path::Path) -> Self {
        let mut node = Command::new("node");
        node.env("NODE_PATH", NODE_PACKAGES).arg(written(
            folder,
            "servers.js",
            include_str!("hooks/servers.js"),
        ));
        Self::start(node, 3).await
    }

    async fn python(folder: &std::path::Path) -> Self {
        let mut python = Command::new(PYTHON);
        python.arg(written(folder, "servers.py", include_str!("hooks/servers.py")));
        Self::start(python, 4).await
    }

    async fn go(folder: &std::path::Path) -> Self {
        Self::start(compiled(folder, include_str!("hooks/servers.go")).await, 2).await
    }

    async fn java(folder: &std::path::Path) -> Self {
        let mut java = Command::new("java");
        java.args(["-XX:TieredStopAtLevel=1", "-cp", TOMCAT]);
        java.arg(written(folder, "Servers.java", include_str!("hooks/Servers.java"))).arg(folder);
        Self::start(java, 2).await
    }
}

/// Go's program with this text.
pub(super) async fn compiled(folder: &std::path::Path, text: &str) -> Command {
    let source = written(folder, "servers.go", text);
    let program = folder.join("go-servers");
    let mut build = Command::new("go");
    build.env("GO111MODULE", "off").arg("build").arg("-o").arg(&program).arg(source).kill_on_drop(true);
    let built = tokio::time::timeout(START, build.status()).await.expect("it is not compiled in time");
    assert!(built.expect("`cargo xtask test` installs Go").success(), "the servers cannot be compiled");
    Command::new(program)
}

pub(super) fn written(folder: &std::path::Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A response.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

/// Sends a request and reads one response: up to its length, or else to the end of the connection.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> Option<Reply> {
    let reading = async {
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut bytes = Vec::new();
        loop {
            if let Some(reply) = reply(&bytes, false) {
                return Some(reply);
            }
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return reply(&bytes, true);
            }
        }
    };
    tokio::time::timeout(LONG, reading).await.expect("no answer")
}

fn reply(bytes: &[u8], ended: bool) -> Option<Reply> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let complete = ended || length.is_some_and(|length: usize| body.len() >= length);
    let body = body.to_owned();
    complete.then_some(Reply { status, head, body })
}

/// Sends a request to a server directly, without the endpoint.
async fn directly(server: SocketAddr, method: &str, target: &str) -> Option<Reply> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let rest = format!("Host: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Host::name());
    exchange(&mut stream, &format!("{method} {target} HTTP/1.1\r\n{rest}")).await
}

/// How often the hooks of a server were called.
async fn reached(server: SocketAddr) -> usize {
    let reply = directly(server, "GET", "/reached").await.unwrap();
    reply.body.trim().lines().find_map(|line| line.parse().ok()).unwrap_or_else(|| panic!("{reply:?}"))
}

/// A host whose hooks are served by this server.
async fn host_of(server: SocketAddr) -> Host {
    let host = Host::new().await;
    host.platform.world().ports.insert(HOOKS, server);
    host
}

/// Sends each target to a server, directly and then through the endpoint. Returns the targets that have reached a hook
/// directly.
async fn try_all(name: &str, server: SocketAddr, targets: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for target in targets {
        // Some servers close the connection at once.
        if directly(server, "POST", target).await.is_some_and(|reply| reply.body.contains("a hook")) {
            found.push(target.clone());
        }
    }
    let before = reached(server).await;
    assert_eq!(before, found.len(), "{name} counts what it says");
    let host = host_of(server).await;
    let (mut stream, token) = (None, host.token());
    for target in targets {
        let mut open = match stream.take() {
            Some(open) => open,
            None => host.tls(&Host::name(), b"http/1.1").await,
        };
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nX-aws-proxy-auth: {token}\r\nX-aws-proxy-port: {HOOKS}\r\n\
             Content-Length: 0\r\n\r\n",
            Host::name()
        );
        let reply = exchange(&mut open, &request).await.unwrap();
        // Text that is no valid target is not forwarded to the app either.
        assert!([403, 400].contains(&reply.status), "{name}: {target}: {reply:?}");
        if reply.status == 403 {
            assert!(reply.head.contains("x-aws-proxy-error: unauthorized"), "{name}: {target}: {reply:?}");
            assert_eq!(
                reply.body, "Lifecycle hooks cannot be called through the endpoint",
                "{name}: {target}"
            );
            stream = Some(open);
        }
    }
    assert_eq!(reached(server).await, before, "a hook of {name} was reached through the endpoint");
    found
}

#[tokio::test]
async fn no_server_takes_a_request_from_outside_for_a_hook() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (node, python, go, java) =
        tokio::join!(Program::node(path), Program::python(path), Program::go(path), Program::java(path));
    let programs = [node, python, go, java];
    let servers: Vec<(String, SocketAddr)> =
        programs.iter().flat_map(|program| program.servers.clone()).collect();
    let targets = variants();
    assert!(targets.len() > 400, "{}", targets.len());
    let found = join_all(servers.iter().map(|(name, server)| try_all(name, *server, &targets))).await;
    for ((name, _), found) in servers.iter().zip(&found) {
        eprintln!("{name}: {} of {} reach the hook directly", found.len(), targets.len());
        let others = found.iter().filter(|target| *target != HOOK).count();
        assert!(found.iter().any(|target| target == HOOK) && others > 0, "{name}: {found:?}");
    }
    for (name, target) in [
        ("node", format!("/x%2fy/..{HOOK}")),
        ("tomcat", HOOK.replace("/aws/", "/aws;a/")),
        ("go-cleaning", format!("/x/..{HOOK}")),
        ("express", HOOK.replace("lambda-microvms", "LAMBDA-MICROVMS")),
        ("flask", HOOK.replace("lambda", "%6cambda")),
    ] {
        let index = servers.iter().position(|server| server.0 == name).unwrap();
        assert!(found[index].contains(&target), "{name} no longer takes {target} for the hook: {found:?}");
    }
    ordinary_paths_arrive_as_they_are(servers.iter().find(|(name, _)| name == "node").unwrap().1).await;
}

/// Checks with a server of Node, which returns the target that it received.
async fn ordinary_paths_arrive_as_they_are(server: SocketAddr) {
    let host = host_of(server).await;
    let (mut http1, mut http2) = (host.http1().await, host.http2().await);
    for target in [
        "/",
        "//",
        "/a/../b/./c//d",
        "/a%2fb%2e%2E/%252f;x=y/\\z",
        "/%e2%82%ac%ff%00%zz%",
        "/aws/lambda/microvms",
        "/logs?group=/aws/lambda-microvms/demo",
    ] {
        let request = || {
            let mut request = host.request("POST", target, nothing());
            request.headers_mut().insert("x-aws-proxy-port", HOOKS.into());
            request
        };
        let expected = format!("no hook: {target}");
        assert_eq!(text(http1.send(request()).await).await, expected);
        assert_eq!(text(http2.send(request()).await).await, expected);
    }
}

#[tokio::test]
async fn hooks_are_refused_in_every_protocol() {
    let host = Host::new().await;
    let expected =
        (403, "UNAUTHORIZED".to_owned(), "Lifecycle hooks cannot be called through the endpoint".to_owned());
    let (mut http1, mut http2) = (host.http1().await, host.http2().await);
    let parsed = |target: &String| target.starts_with('/') && target.parse::<hyper::Uri>().is_ok();
    let targets: Vec<String> = variants().into_iter().filter(parsed).collect();
    assert!(targets.len() > 400, "{}", targets.len());
    for target in targets {
        let mut request = host.request("POST", &target, nothing());
        request.headers_mut().insert("x-aws-proxy-port", HOOKS.into());
        assert_eq!(refusal(http2.send(request).await).await, expected, "{target}");
    }
    for headers in [
        &[
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ][..],
        &[("content-type", "application/grpc"), ("te", "trailers")],
        &[("x-aws-proxy-force-h2", "true")],
    ] {
        let mut request = host.get(HOOK);
        request.headers_mut().insert("x-aws-proxy-port", HOOKS.into());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        assert_eq!(refusal(http1.send(request).await).await, expected, "{headers:?}");
    }
    let mut request = host.get("/count");
    request.headers_mut().insert("x-aws-proxy-port", HOOKS.into());
    request.headers_mut().insert("x-original-url", HOOK.parse().unwrap());
    assert_eq!(refusal(http1.send(request).await).await, expected);
    // On another port, the path of a hook is a path like any other.
    assert_eq!(http2.send(host.get("/aws/lambda-microvms/x")).await.status(), 404);
}

#[tokio::test]
async fn what_follows_a_request_is_a_request_of_its_own() {
    let host = Host::new().await;
    let common = format!(
        "Host: {}\r\nX-aws-proxy-auth: {}\r\nX-aws-proxy-port: {HOOKS}\r\n",
        Host::name(),
        host.token()
    );
    let hidden = format!("POST {HOOK} HTTP/1.1\r\n{common}Content-Length: 0\r\n\r\n");
    let upgrade = |protocol: &str| format!("Connection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    for first in [
        // The app does not upgrade.
        format!("GET /headers HTTP/1.1\r\n{common}{}", upgrade("websocket")),
        format!("GET /headers HTTP/1.1\r\n{common}{}", upgrade("h2c, websocket")),
        format!("GET /headers HTTP/1.1\r\n{common}{}", upgrade("h2c")),
        format!(
            "POST /headers HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\nContent-Length: 500\r\n\r\n0\r\n\r\n"
        ),
        format!(
            "POST /headers HTTP/1.1\r\n{common}Content-Length: 500\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("GET /headers HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("GET /headers HTTP/1.1\r\n{common}Connection: content-length\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let mut stream = host.tls(&Host::name(), b"http/1.1").await;
        let closing = hidden.replace("Content-Length", "Connection: close\r\nContent-Length");
        stream.write_all(format!("{first}{closing}").as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // The result is the same whether or not TLS was closed properly.
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("no end");
        let answers = String::from_utf8_lossy(&bytes).into_owned();
        let statuses: Vec<&str> =
            answers.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)).collect();
        // A request with two lengths ends its connection (RFC 9112, section 6.1).
        let expected: &[&str] = if first.contains("Length: 500") { &["200"] } else { &["200", "403"] };
        assert_eq!(statuses, expected, "{first}: {answers}");
        assert!(!answers.contains("h2c") && !answers.contains("content-length: 500"), "{first}: {answers}");
    }
    // A body that looks like a request stays a body.
    let length = hidden.len();
    let mut stream = host.tls(&Host::name(), b"http/1.1").await;
    let request = format!(
        "POST /echo HTTP/1.1\r\n{common}Content-Length: {length}\r\nConnection: close\r\n\r\n{hidden}"
    );
    assert_eq!(exchange(&mut stream, &request).await.unwrap().body, hidden);
    // A request with two lengths is refused.
    let mut stream = host.tls(&Host::name(), b"http/1.1").await;
    let request = format!(
        "POST /echo HTTP/1.1\r\n{common}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}"
    );
    assert_eq!(exchange(&mut stream, &request).await.unwrap().status, 400);
}
