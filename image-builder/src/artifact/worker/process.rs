//! The worker's side: from its start into the jail, and what it does there.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::os::fd::{OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use hearth_vmm_api::socket::PacketSocket;
use hearth_vmm_jail::{JailConfig, Wall, enter_helper};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustls::pki_types::CertificateDer;

use super::protocol::{self, Failure, Report, shown};
use super::{Answer, Facts, Origin, Task};
use crate::artifact::config::ArtifactLimits;
use crate::artifact::download::{Download, Meter, Progress};
use crate::artifact::error::ArtifactError;
use crate::artifact::web::Web;
use crate::artifact::{local, oci, s3, zip};
use crate::failure::{FailureCode, StateReason};

/// The command that makes a program a worker, and its options.
pub(super) const COMMAND: &str = "fetch-worker";
pub(super) const CONTROL_FD: &str = "--control-fd";
pub(super) const AUTHORITIES: &str = "--authorities";
pub(super) const MEMORY: &str = "--memory";
pub(super) const PROCESSOR_SECONDS: &str = "--processor-seconds";

/// User and group ids of workers, above those that monitors get by default. A worker's own is the first and its process id (4,194,304 at
/// most, proc(5)), so that two that live have different ones.
pub const WORKER_IDS: RangeInclusive<u32> = 1_910_000_000..=1_914_194_304;

/// Most threads of a worker.
const THREADS: u64 = 32;

/// Progress is told when it has come this far, or this time has passed.
const PROGRESS_BYTES: u64 = 1 << 20;
const PROGRESS_TIME: Duration = Duration::from_secs(1);

/// Fetches and checks one artifact in a jail; hearthd and hearth-image-builder start it themselves
#[derive(Debug, Args)]
pub struct WorkerArguments {
    /// The socket over which the task comes
    #[arg(long)]
    control_fd: RawFd,
    /// Read the authorities of this host
    #[arg(long)]
    authorities: bool,
    /// Most bytes of memory
    #[arg(long)]
    memory: u64,
    /// Most seconds of a processor's time
    #[arg(long)]
    processor_seconds: u64,
    #[command(flatten)]
    jail: JailConfig,
}

impl WorkerArguments {
    /// Enters the jail, and does what the launcher sends. To be called while the process has one thread.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.enter_and_work() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("fetch worker: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn enter_and_work(self) -> Result<(), Box<dyn std::error::Error>> {
        // The last thing that is read by a path. What cannot be used is left out; without any, connections say so.
        let authorities =
            if self.authorities { rustls_native_certs::load_native_certs().certs } else { Vec::new() };
        let id = WORKER_IDS.start().saturating_add(std::process::id());
        let jail = JailConfig { uid: id, gid: id, ..self.jail };
        if jail.has(Wall::Limits) {
            lower(Resource::Data, self.memory)?;
            lower(Resource::Cpu, self.processor_seconds)?;
            lower(Resource::Nproc, THREADS)?;
        }
        let control = enter_helper(&jail, self.control_fd)?;
        // The change of users has cleared what the launcher set. If it died before, the socket is closed.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let link = Link::new(PacketSocket::from_fd(control));
        let Some((task, descriptors)) = protocol::receive::<Task>(&link.socket, &mut Vec::new())? else {
            return Ok(());
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let done = runtime.block_on(perform(&link, task, descriptors, authorities));
        link.say(&match done {
            Ok(facts) => Report::Done(facts),
            Err(error) => Report::Failed(failure(&error)),
        })?;
        Ok(())
    }
}

/// Lowers a limit for good, or leaves it where it is lower.
fn lower(resource: Resource, value: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(value, |most| most.min(value));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// The worker's end of the socket.
#[derive(Clone)]
pub(in crate::artifact) struct Link {
    socket: Arc<PacketSocket>,
    /// Held from a question to its answer.
    asking: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    fn new(socket: PacketSocket) -> Self {
        Self { socket: Arc::new(socket), asking: Arc::default() }
    }

    fn say(&self, report: &Report) -> io::Result<()> {
        protocol::send(&self.socket, report, &[])
    }

    /// Asks the daemon for a connection. Blocks until it is there.
    pub(in crate::artifact) fn connect(&self, server: &Origin) -> Result<TcpStream, Answer> {
        let broken = |error: io::Error| Answer::Failed(format!("asking for a connection: {error}"));
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.say(&Report::Connect(server.clone())).map_err(broken)?;
        let answer = protocol::receive::<Answer>(&self.socket, &mut Vec::new()).map_err(broken)?;
        match answer {
            Some((Answer::Connected, mut descriptors)) => {
                let stream = descriptors.pop().ok_or_else(|| broken(io::ErrorKind::NotFound.into()))?;
                Ok(stream.into())
            }
            Some((answer, _)) => Err(answer),
            None => Err(broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// The descriptors that came with a task.
struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    fn file(&mut self) -> Result<File, ArtifactError> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "a descriptor is missing");
        self.0.next().map(File::from).ok_or_else(missing).map_err(ArtifactError::io("receiving the task"))
    }

    /// The PEM in the next one, if there is one.
    fn authorities(&mut self) -> Result<Vec<u8>, ArtifactError> {
        let Some(descriptor) = self.0.next() else { return Ok(Vec::new()) };
        let mut pem = Vec::new();
        let read = File::from(descriptor).take(MOST_AUTHORITIES).read_to_end(&mut pem);
        read.map_err(ArtifactError::io("reading authorities"))?;
        Ok(pem)
    }
}

/// Most bytes of a file with authorities.
const MOST_AUTHORITIES: u64 = 16 << 20;

async fn perform(
    link: &Link,
    task: Task,
    descriptors: Vec<OwnedFd>,
    authorities: Vec<CertificateDer<'static>>,
) -> Result<Facts, ArtifactError> {
    let mut descriptors = Descriptors(descriptors.into_iter());
    let on_progress = told(link);
    match task {
        Task::Copy { bytes, limits } => {
            let (out, from) = (descriptors.file()?, descriptors.file()?);
            let mut meter = Meter::new(limits.max_zip_bytes, &on_progress);
            let mut download = Download::new(&out, &mut meter);
            if let Some(bytes) = bytes {
                download.expect(bytes)?;
            }
            local::copy(from, bytes.unwrap_or(u64::MAX), &mut download)?;
            let sha256 = download.finish();
            check(&out, sha256, &limits, &on_progress)
        }
        Task::Object(task) => {
            let out = descriptors.file()?;
            let web = Web::new(link.clone(), authorities, &descriptors.authorities()?)?;
            let mut meter = Meter::new(task.limits.max_zip_bytes, &on_progress);
            let mut download = Download::new(&out, &mut meter);
            s3::get(web, &task, &mut download).await?;
            let sha256 = download.finish();
            check(&out, sha256, &task.limits, &on_progress)
        }
        Task::Image(task) => {
            let out = descriptors.file()?;
            let web = Web::new(link.clone(), authorities, &descriptors.authorities()?)?;
            let digest = oci::pull(web, &task, out, &on_progress).await?;
            Ok(Facts::Image { digest })
        }
        Task::Tar { limits } => {
            let (from, to) = (descriptors.file()?, descriptors.file()?);
            match zip::write_tar_of(&from, &limits, &to) {
                // The reader has stopped, and says itself why.
                Err(zip::ZipError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    Ok(Facts::Sent)
                }
                Err(error) => Err(error.into()),
                Ok(_) => Ok(Facts::Sent),
            }
        }
    }
}

/// Tells the daemon of progress: of the first bytes, of the last ones, and now and then between.
fn told(link: &Link) -> impl Fn(Progress) + Send + Sync {
    let (link, last) = (link.clone(), Mutex::new(None));
    move |progress| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Progress::Fetching { bytes, total } = progress {
            let is_near = last.is_some_and(|(at, time): (u64, Instant)| {
                bytes < at.saturating_add(PROGRESS_BYTES) && time.elapsed() < PROGRESS_TIME
            });
            if is_near && total != Some(bytes) {
                return;
            }
            *last = Some((bytes, Instant::now()));
        }
        // Without the daemon there is no progress; the next question finds that out.
        let _ = link.say(&Report::Progress(progress));
    }
}

fn check(
    file: &File,
    sha256: String,
    limits: &ArtifactLimits,
    on_progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Facts, ArtifactError> {
    on_progress(Progress::Checking);
    let summary = zip::check_file(file, &limits.zip, &|| on_progress(Progress::Checking))?;
    Ok(Facts::Zip { summary, sha256 })
}

fn failure(error: &ArtifactError) -> Failure {
    let (code, detail) = match error.state_reason() {
        StateReason::Code(code) => (code, None),
        StateReason::Detailed(code, detail) => (code, Some(detail)),
        // No fetch has another kind.
        other => (FailureCode::InternalPlatformError, Some(other.sentence())),
    };
    Failure { code, detail: detail.as_deref().map(shown), log: shown(&error.to_string()) }
}
