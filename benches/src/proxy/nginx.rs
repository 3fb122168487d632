//! nginx: the app behind both proxies, and the reverse proxy with which Hearth's is compared.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::certificate::Certificate;

/// Deadline for nginx to listen, and to exit.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between checks whether it listens.
const LOOK: Duration = Duration::from_millis(10);
/// Connections to the app that each worker of the reverse proxy keeps: as many as Hearth keeps to one port of an app. Requests
/// beyond that wait for new connections, which is expensive for both, so the two limits have to match.
const KEPT: u32 = 1024;
/// Path with a small response of the app.
pub(crate) const SMALL: &str = "/";
/// Path whose response is a big file.
pub(crate) const BIG: &str = "/big";
/// Path that accepts uploads of a big file.
pub(crate) const UPLOAD: &str = "/upload";

/// An nginx process, which is stopped when this is dropped.
pub(crate) struct Nginx {
    /// Address on which it listens.
    pub(crate) address: SocketAddr,
    program: PathBuf,
    folder: PathBuf,
    child: Child,
}

impl Nginx {
    /// Starts the app: a small response, the big file `file`, and uploads that it reads to their end before it responds.
    pub(crate) async fn app(program: &Path, folder: &Path, file: &Path) -> Result<Self> {
        let address = free()?;
        let (done, file) = (folder.join("done.sock"), file.display());
        let done = done.display();
        // With `return` alone, nginx would respond before it has read the body. As a proxy, it reads the whole body first; the server
        // behind it (`done`) is not sent the body. The body stays in memory.
        let servers = format!(
            "upstream done {{ server unix:{done}; keepalive 64; keepalive_requests 1000000000; }}
             server {{ listen unix:{done}; location / {{ return 200 \"done\\n\"; }} }}
             server {{
                 listen {address};
                 location = {SMALL} {{ return 200 \"hello\\n\"; }}
                 location = {BIG} {{ alias {file}; }}
                 location = {UPLOAD} {{
                     client_body_buffer_size 64m;
                     proxy_pass http://done;
                     proxy_http_version 1.1;
                     proxy_pass_request_body off;
                     proxy_set_header Connection \"\";
                     proxy_set_header Content-Length \"\";
                 }}
             }}"
        );
        Self::start(program, folder, address, 1, &servers).await
    }

    /// Starts a reverse proxy in front of `app`, which does the same as Hearth's except for checking tokens.
    pub(crate) async fn proxy(
        program: &Path,
        folder: &Path,
        app: SocketAddr,
        certificate: &Certificate,
        workers: usize,
    ) -> Result<Self> {
        let address = free()?;
        let (key, certificate) = (certificate.key.display(), certificate.certificate.display());
        let servers = format!(
            "upstream app {{ server {app}; keepalive {KEPT}; keepalive_requests 1000000000; }}
             server {{
                 listen {address} ssl;
                 http2 on;
                 ssl_certificate {certificate};
                 ssl_certificate_key {key};
                 ssl_protocols TLSv1.3;
                 http2_max_concurrent_streams 256;
                 http2_body_preread_size 4m;
                 client_body_buffer_size 4m;
                 location / {{
                     proxy_pass http://app;
                     proxy_http_version 1.1;
                     proxy_request_buffering off;
                     proxy_set_header Connection \"\";
                     proxy_set_header Host $host;
                     proxy_set_header X-Forwarded-For $remote_addr;
                     proxy_set_header X-Amzn-RequestId $request_id;
                     proxy_set_header X-aws-proxy-auth \"\";
                     add_header X-Amzn-RequestId $request_id;
                 }}
             }}"
        );
        Self::start(program, folder, address, workers, &servers).await
    }

    async fn start(
        program: &Path,
        folder: &Path,
        address: SocketAddr,
        workers: usize,
        servers: &str,
    ) -> Result<Self> {
        fs::create_dir(folder).context("making a folder for nginx")?;
        // As root, nginx would run its workers as another user, who cannot read these files.
        let root = fs::metadata(folder).context("reading a folder of nginx's")?.uid() == 0;
        let user = if root { "user root;" } else { "" };
        let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let kept = kept.map(|what| format!("{what}_temp_path {what};")).join(" ");
        let config = format!(
            "{user} worker_processes {workers}; daemon off; pid nginx.pid; error_log stderr error;
             events {{ worker_connections 4096; }}
             http {{
                 {kept}
                 access_log off;
                 sendfile on;
                 tcp_nopush on;
                 default_type text/plain;
                 keepalive_timeout 3600s;
                 keepalive_requests 1000000000;
                 client_max_body_size 0;
                 {servers}
             }}"
        );
        fs::write(folder.join("nginx.conf"), config).context("writing nginx's configuration")?;
        let child =
            command(program, folder).spawn().with_context(|| format!("starting {}", program.display()))?;
        let mut nginx = Self { address, program: program.to_owned(), folder: folder.to_owned(), child };
        nginx.listening().await?;
        Ok(nginx)
    }

    async fn listening(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(self.address).await.is_err() {
            if let Some(status) = self.child.try_wait().context("looking after nginx")? {
                bail!("nginx has ended: {status}");
            }
            if start.elapsed() > WAIT_TIMEOUT {
                bail!("nginx does not listen on {}", self.address);
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // nginx is stopped by its own command: if it were killed, its workers would survive.
        let mut stop = command(&self.program, &self.folder);
        let _ = stop.as_std_mut().args(["-s", "stop"]).stderr(Stdio::null()).status();
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < WAIT_TIMEOUT {
            std::thread::sleep(LOOK);
        }
        let _ = self.child.start_kill(); // it has exited, unless the command failed
    }
}

/// nginx with the configuration in a folder.
fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    // Until nginx has read its configuration, it would log to the system's file.
    command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(folder);
    command
}

/// An address on which nothing listens.
fn free() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    listener.local_addr().context("finding a free port")
}
