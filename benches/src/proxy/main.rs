//! `proxy-bench`: the endpoints' proxy beside nginx as reverse proxy, on this machine, in one run.
//!
//! ```text
//!                ┌─► nginx ──┐
//!  h2load ─(TLS)─┤           ├─(HTTP/1.1)─► nginx as app
//!                └─► hearth ─┘
//! ```
//!
//! `cargo xtask bench proxy` runs it. Everything is on the loopback device and shares the processors; both proxies have two
//! worker threads, the same certificate, the same requests (with a token, which only Hearth checks) and the same app.
//! There are no microVMs: the path between the daemon and a guest's app is not measured here.
//!
//! * [`nginx`] – the app, and the reverse proxy with which Hearth's is compared
//! * [`hearth`] – Hearth's proxy in this process
//! * [`certificate`] – the certificate of both
//! * [`load`] – h2load, and its output
//! * [`relay`] – a high latency between client and proxy
//! * [`hold`] – the cost of idle connections
//! * [`measure`] – the figures, in rounds; [`report`] – how they are shown

#![forbid(unsafe_code)]

mod certificate;
mod hearth;
mod hold;
mod load;
mod measure;
mod nginx;
mod relay;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};

use certificate::Certificate;
use hearth::Hearth;
use hold::{Hold, Idle};
use load::H2load;
use measure::Bench;
use nginx::Nginx;

/// Threads of each proxy.
const WORKERS: usize = 2;
/// Folder for files if it exists: a file system in memory.
const MEMORY: &str = "/dev/shm";

/// Measures the endpoints' proxy beside nginx
#[derive(Debug, Parser)]
struct Options {
    /// The nginx to measure beside, which is the app as well: 1.25.1 or later
    #[arg(long, value_name = "PATH", default_value = "nginx")]
    nginx: PathBuf,
    /// What makes the requests: of nghttp2 1.50 or later
    #[arg(long, value_name = "PATH", default_value = "h2load")]
    h2load: PathBuf,
    /// How often each figure is taken
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    rounds: usize,
    /// For how long requests are counted each time
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    seconds: u32,
    /// Where files are made; in memory unless given
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What this program does for itself, in another process.
#[derive(Debug, Subcommand)]
enum Part {
    #[command(hide = true)]
    Hold(Hold),
    #[command(hide = true)]
    Idle(Idle),
}

fn main() -> ExitCode {
    hearth_benches::report::exit("proxy-bench", run(Options::parse()))
}

fn run(mut options: Options) -> Result<()> {
    let part = options.part.take();
    if let Some(Part::Hold(hold)) = part {
        return Builder::new_current_thread().enable_all().build()?.block_on(hold.run());
    }
    // Besides the worker threads, this runtime has one thread, so that nothing else in this process gets in its way.
    let proxy = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("hearth")
        .enable_all()
        .build()
        .context("starting the proxy's runtime")?;
    if let Some(Part::Idle(idle)) = part {
        return idle.run(&proxy);
    }
    let runtime = Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(async {
        // On SIGTERM, the measurement is dropped, which stops all processes that it has started.
        let mut end = signal(SignalKind::terminate()).context("waiting for a signal")?;
        tokio::select! {
            done = measure(&options, proxy.handle()) => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = end.recv() => bail!("terminated"),
        }
    })
}

async fn measure(options: &Options, runtime: &Handle) -> Result<()> {
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None if Path::new(MEMORY).is_dir() => tempfile::tempdir_in(MEMORY),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("making a folder")?;
    let certificate = Certificate::new(folder.path(), hearth::DOMAIN)?;
    let file = measure::big_file(folder.path())?;
    let app = Nginx::app(&options.nginx, &folder.path().join("app"), &file).await?;
    let nginx =
        Nginx::proxy(&options.nginx, &folder.path().join("nginx"), app.address, &certificate, WORKERS)
            .await?;
    let hearth = Hearth::start(runtime, app.address, &certificate).await?;
    let h2load = H2load::new(&options.h2load, folder.path(), &hearth.token);
    let bench = Bench {
        h2load,
        file,
        app: app.address,
        nginx: nginx.address,
        hearth: hearth.address,
        rounds: options.rounds,
        seconds: options.seconds,
    };
    let mut figures = bench.measure().await?;
    figures.extend(measure::idle(app.address, folder.path(), options.rounds)?);
    print!("{}", hearth_benches::report::table(&figures));
    if let Some(path) = &options.json {
        hearth_benches::report::save(&figures, path)?;
    }
    Ok(())
}
