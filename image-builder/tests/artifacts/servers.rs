//! Servers for the tests: an object store, a registry, a scripted server.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

/// Serves HTTP on a free port of the loopback as long as the runtime lives.
pub(crate) async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service.clone());
            // A client that closes the connection is no error of a test.
            tokio::spawn(async move {
                let _ = connection.await;
            });
        }
    });
    address
}

/// An object store whose buckets are the directories in `root`. It accepts one pair of keys.
pub(crate) async fn object_store(root: &Path, id: &str, secret: &str) -> String {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single(id, secret));
    format!("http://{}", serve(builder.build()).await)
}

/// A server that answers every request in the same way.
pub(crate) async fn scripted(status: u16, headers: &'static [(&str, &str)], body: &'static str) -> String {
    let service = service_fn(move |_: Request<Incoming>| async move {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        answer.body(Full::new(Bytes::from_static(body.as_bytes())))
    });
    format!("http://{}", serve(service).await)
}

/// Debian's registry, with an empty store below `root`.
pub(crate) struct DockerRegistry {
    process: Child,
    /// `host:port`
    pub(crate) name: String,
}

impl DockerRegistry {
    /// Starts the registry. With `htpasswd`, clients have to sign in.
    pub(crate) fn start(root: &Path, htpasswd: Option<&str>) -> Self {
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            root.join("store").display()
        );
        if let Some(htpasswd) = htpasswd {
            std::fs::write(root.join("htpasswd"), htpasswd).unwrap();
            config +=
                &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", root.join("htpasswd").display());
        }
        std::fs::write(root.join("config.yml"), config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(root.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut process = match process {
            Ok(process) => process,
            Err(error) => {
                panic!("starting docker-registry, which Debian's package docker-registry has: {error}")
            }
        };
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        // The registry logs the port that it listens on.
        let said = lines.find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.chars().take_while(|it| it.is_ascii_digit() || matches!(it, '.' | ':')).collect())
        });
        // Drains the pipe, which would fill up otherwise.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, name: said.expect("docker-registry ended before it listened") }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // The process may have exited by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
