//! Builds the Dockerfile in the builder microVM.
//!
//! | Disk | What | Where in the guest |
//! |---|---|---|
//! | `vda` | `builder.erofs` | the container's root; changes go to memory |
//! | `vdb` | scratch: dockerd's folder with the layer cache, the context | `/var/lib/hearth` |
//! | `vdc` | `containers.erofs` | `/hearth`, and its layers in dockerd's folder |
//! | `vdd` | the root disk to be written | only `mke2fs` touches it |

use std::convert::Infallible;
use std::fs::File;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_host::agent::control::{Control, Exit};
use hearth_host::microvm::{create, open};
use hearth_host::network::Egress;
use hearth_model::shape::Shape;
use hearth_proto::guest::v1::{self as proto, LogSource};
use hearth_vmm_api::config::DiskSource;
use tokio::net::UnixStream;

use super::config;
use super::error::{BuildError, file};
use super::event::{LogStream, Step};
use super::identity::{Identity, random_id};
use super::lines::Lines;
use super::memory::{self, Victims};
use super::mirrors;
use super::progress::{Failure, Output, is_full};
use super::pull;
use super::request::BuildRequest;
use super::stage::{Allotment, Host, Stage};
use super::tail::Tail;
use super::workspace::{ARTIFACT, Workspace};
use crate::artifact::{Artifact, Fetcher};
use crate::failure::FailureCode;
use crate::image::App;
use hearth_base::Base;

const PREPARE: &str = include_str!("scripts/prepare.sh");
const BUILD: &str = include_str!("scripts/build.sh");
const DESCRIBE: &str = include_str!("scripts/describe.sh");
const DISK: &str = include_str!("scripts/disk.sh");
const OPENSSL: &str = include_str!("scripts/openssl.pl");
const LEAVE: &str = include_str!("scripts/leave.sh");

/// Folder of the build context in the guest.
const CONTEXT: &str = "/var/lib/hearth/context";
/// Where the provider of OpenSSL, and the script that gives it to the image, are unpacked in the guest.
const OPENSSL_FOLDER: &str = "/run";
/// Bytes of the longest path, and one (`PATH_MAX` of Linux).
const PATH_MAX: usize = 4096;
/// How lines of scripts that are for the build's log begin.
const WARNING: &[u8] = b"warning: ";
/// Exit status of the scripts when a disk is full (`ENOSPC`).
const FULL: u32 = 28;
/// Room in bytes for dockerd's folder, in addition to the root disk's size.
pub(super) const SCRATCH_EXTRA: u64 = 16 << 30;
/// UUID and hash seed of every root disk: constant, so that disks differ only by their content.
const DISK_ID: &str = "68656172-7468-4d69-8372-6f6f74000000";
/// How long the guest has to write everything to disk and power off.
const POWER_OFF: Duration = Duration::from_secs(120);

/// The app of a container image whose files are on the root disk.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) app: App,
    /// Bytes of the container's files.
    pub(super) code_bytes: u64,
}

/// Inputs of a container's build.
pub(super) struct Job<'a> {
    pub(super) host: &'a Host,
    pub(super) workspace: &'a Workspace,
    pub(super) request: &'a BuildRequest,
    pub(super) base: &'a Base,
    pub(super) fetcher: &'a Fetcher,
    pub(super) artifact: &'a Artifact,
    pub(super) credentials: Option<proto::Credentials>,
    /// Path of the root disk to write.
    pub(super) disk: &'a Path,
}

impl Job<'_> {
    /// Builds the image and writes its root disk.
    pub(super) async fn run(&self) -> Result<Container, BuildError> {
        let sink = &self.host.sink;
        let scratch = self.workspace.path("scratch");
        let (stage, control) = sink.step(Step::StartBuilder, self.start(&scratch)).await?;
        let made = match sink.step(Step::Build, self.build(&stage)).await {
            Ok(()) => sink.step(Step::RootDisk, self.write_disk(&stage)).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(container) => self.leave(stage, control, &scratch).await.map(|()| container),
            // A user who mends a step of the Dockerfile profits from the cached layers before it.
            Err(error @ BuildError::Failed { .. }) if self.cache_key().is_some() => {
                let _ = self.leave(stage, control, &scratch).await; // the first error is the one to return
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Key of the layer cache, specific to this image and this base. BuildKit's own keys inside are derived from content.
    fn cache_key(&self) -> Option<String> {
        let key = self.request.cache.as_ref()?;
        let name: String =
            key.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let digest = self.base.manifest.inputs_sha256.get(..16).unwrap_or_default().to_owned();
        Some(format!("{name}-{}-{digest}", self.request.memory.mib()))
    }

    async fn start(&self, scratch: &Path) -> Result<(Stage, Control), BuildError> {
        let disks = self.disks(scratch)?;
        let limits = self.host.settings.builder;
        let memory_mib = limits.memory_of(self.request.memory);
        let shape = Shape { memory_mib, vcpus: limits.vcpus };
        let allotment = Allotment { stage: "build", shape, class_mib: memory_mib };
        let mut stage = Stage::start(self.host, self.workspace, allotment).await?;
        let mut control = stage.boot(self.base, disks).await?;
        let root = proto::RootDisk {
            device: "/dev/vda".into(),
            file_system: "erofs".into(),
            overlay_in_memory: true,
        };
        control
            .configure(proto::Configure {
                root: Some(root),
                network: stage.guest_network(),
                all_capabilities: true,
                hostname: "builder".into(),
                ..proto::Configure::default()
            })
            .await?;
        // The guest has booted with a clock in 1970, and without entropy.
        let who = Identity {
            microvm_id: &random_id(),
            metadata: Some(self.request.platform.metadata()),
            credentials: self.credentials.clone(),
        };
        control.identify(who.message(&stage)?).await?;
        // The app does nothing: the work is done by processes beside it.
        control.start_app(process(&["/bin/sleep", "infinity"])).await?;
        let hosts = mirrors::hosts_file(&self.host.settings.registry_mirrors);
        let prepared = self.script(&stage, PREPARE, &[&hosts], &mut |_, _| {}).await?;
        prepared.success("preparing the builder's disks")?;
        self.feed(&stage).await?;
        Ok((stage, control))
    }

    fn disks(&self, scratch: &Path) -> Result<Vec<DiskSource>, BuildError> {
        let size = self.request.memory.disk_bytes();
        let cached = self.cache_key().is_some_and(|key| self.workspace.take_cache(&key, scratch));
        let scratch_file = if cached {
            File::options().read(true).write(true).open(scratch).map_err(file("opening", scratch))?
        } else {
            create("making the builder's scratch disk", scratch)?
        };
        scratch_file.set_len(size + SCRATCH_EXTRA).map_err(file("making", scratch))?;
        let disk = create("making the root disk", self.disk)?;
        disk.set_len(size).map_err(file("making", self.disk))?;
        Ok(vec![
            DiskSource::ReadOnly(open("opening the builder's root disk", &self.base.builder())?),
            DiskSource::Writable(scratch_file),
            DiskSource::ReadOnly(open("opening the container bases", &self.base.containers())?),
            DiskSource::Writable(disk),
        ])
    }

    /// Sends the artifact to the builder, as a tar stream.
    async fn feed(&self, stage: &Stage) -> Result<(), BuildError> {
        let pair = StdStream::pair().and_then(|(writer, reader)| {
            reader.set_nonblocking(true)?;
            Ok((writer, UnixStream::from_std(reader)?))
        });
        let (writer, reader) =
            pair.map_err(|error| BuildError::Platform(format!("making a socket pair: {error}")))?;
        let folder = self.workspace.path(ARTIFACT);
        let sending = self.fetcher.send(self.artifact, &folder, writer.into());
        let (sent, unpacked) = tokio::join!(sending, stage.agent().unpack(CONTEXT, reader));
        // If the archive turns out to be damaged, the guest only reports an early end of the stream; the error here is more precise.
        sent.map_err(|error| BuildError::failed(error.state_reason(), error.to_string()))?;
        unpacked.map_err(|error| full_or(&error.to_string(), || error.into()))
    }

    async fn build(&self, stage: &Stage) -> Result<(), BuildError> {
        let kind = match self.artifact {
            Artifact::Zip { .. } => ["context"],
            Artifact::Image { .. } => ["layout"],
        };
        let output = Mutex::new(Output::default());
        let victims = Mutex::new(Victims::since(self.kills(stage).await.as_deref()));
        let sink = &self.host.sink;
        let mut on_line = |source: LogSource, line: &[u8]| {
            lock(&output).line(line);
            sink.log(LogStream::Build, source, line);
        };
        let mut on_kernel = |_: LogSource, line: &[u8]| {
            let steps = lock(&output).steps();
            lock(&victims).line(steps, line);
        };
        // Where the kernel's log cannot be followed, its counter is enough.
        let following = async {
            let _ = self.script(stage, memory::LOG, &[], &mut on_kernel).await;
            std::future::pending::<Infallible>().await
        };
        let ran = tokio::select! {
            ran = self.script(stage, BUILD, &kind, &mut on_line) => ran?,
            never = following => match never {},
        };
        let output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failure = match ran.exit.code {
            0 => return Ok(()),
            code => output.failure(code),
        };
        let after = self.kills(stage).await;
        let victims = victims.into_inner().unwrap_or_else(PoisonError::into_inner);
        Err(self.explain(&failure, victims.of_step(after.as_deref(), failure.begun)))
    }

    /// How many processes the builder's kernel has killed for want of memory; none if it cannot be asked.
    async fn kills(&self, stage: &Stage) -> Option<String> {
        let ran = self.script(stage, memory::COUNT, &[], &mut |_, _| {}).await;
        ran.ok().map(|finished| finished.stdout)
    }

    /// The error for a build that has failed, which is also the log's last line.
    fn explain(&self, failure: &Failure, killed: Option<String>) -> BuildError {
        let bases: Vec<String> =
            self.base.manifest.containers.iter().map(|container| container.reference.clone()).collect();
        let network = self.host.egress != Egress::None;
        let limits = &self.host.settings.builder;
        let (code, what) = match killed {
            Some(victims) => {
                let step = failure.step.as_ref().map_or_else(|| "The build".to_owned(), ToString::to_string);
                let killed = memory::explain(&step, &victims, limits, self.request.memory);
                (FailureCode::ContainerBuildFailed, killed)
            }
            None if failure.full => (FailureCode::DiskStorageFull, failure.what()),
            None => {
                let pulled = pull::explain(failure, pull::Sources { bases: &bases, network });
                (FailureCode::ContainerBuildFailed, pulled.unwrap_or_else(|| failure.what()))
            }
        };
        self.host.sink.log(LogStream::Build, LogSource::Stderr, what.as_bytes());
        BuildError::explained(code, &(what + &failure.last_lines()))
    }

    async fn write_disk(&self, stage: &Stage) -> Result<Container, BuildError> {
        let described = self.script(stage, DESCRIBE, &[], &mut |_, _| {}).await?;
        let app = config::app(
            described.success("reading what the container image says")?.as_bytes(),
            self.request,
        )?;
        stage.agent().unpack(OPENSSL_FOLDER, &*self.openssl()?).await?;
        // One that is longer than a path can be is none.
        let configuration = app.variable("OPENSSL_CONF").unwrap_or_default();
        let configuration = if configuration.len() < PATH_MAX { configuration } else { "-" };
        let mut on_line = |source: LogSource, line: &[u8]| {
            if source == LogSource::Stdout && line.starts_with(WARNING) {
                self.host.sink.log(LogStream::Build, source, line);
            }
        };
        let written = self.script(stage, DISK, &[DISK_ID, configuration], &mut on_line).await?;
        if written.exit.code == FULL || is_full(written.errors.as_bytes()) {
            let size = self.request.memory.disk_bytes() >> 30;
            let detail = format!(
                "The container's files do not fit the root disk of {size} GiB, which is that of the memory class \
                 (minimumMemoryInMiB)."
            );
            return Err(BuildError::explained(FailureCode::DiskStorageFull, &detail));
        }
        let said = written.success("writing the root disk")?;
        let bytes = said.lines().last().unwrap_or_default();
        let code_bytes = bytes.parse();
        let code_bytes = code_bytes
            .map_err(|_| BuildError::Platform(format!("the builder counted {bytes:?} bytes of files")))?;
        Ok(Container { app, code_bytes })
    }

    /// The archive of what has the image's OpenSSL ask the kernel for random numbers. A base of an earlier release has no provider.
    fn openssl(&self) -> Result<Vec<u8>, BuildError> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // The agent gives files the owner and the time that the archive says.
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            archive.append_data(&mut header, name, content)
        };
        let packed = |error| BuildError::Platform(format!("packing the provider of OpenSSL: {error}"));
        add("openssl.pl", OPENSSL.as_bytes()).map_err(packed)?;
        if let Some(path) = self.base.openssl() {
            let provider = std::fs::read(&path).map_err(file("reading", &path))?;
            add("openssl.so", &provider).map_err(packed)?;
        }
        archive.into_inner().map_err(packed)
    }

    /// Powers the builder off, and keeps its layers for the next build of the image.
    async fn leave(&self, stage: Stage, mut control: Control, scratch: &Path) -> Result<(), BuildError> {
        let left = self.script(&stage, LEAVE, &[], &mut |_, _| {}).await?;
        control.power_off().await?;
        // The root disk is complete only when the guest is off.
        stage.finish(POWER_OFF).await.map_err(|error| {
            BuildError::Platform(format!("the builder microVM did not power off: {error}"))
        })?;
        if let Some(key) = self.cache_key().filter(|_| left.exit.code == 0) {
            self.workspace.keep_cache(&key, scratch);
        }
        Ok(())
    }

    /// Runs a script in the builder. `on_line` receives each line; the output is also kept, up to a bound.
    async fn script(
        &self,
        stage: &Stage,
        script: &str,
        arguments: &[&str],
        on_line: &mut (dyn FnMut(LogSource, &[u8]) + Send),
    ) -> Result<Finished, BuildError> {
        let words = [&["/bin/bash", "-c", script, "hearth"], arguments].concat();
        let (mut out, mut err) = (Lines::default(), Lines::default());
        let (mut stdout, mut errors) = (Tail::new(config::MAX), Tail::new(config::MAX));
        let ran = stage.agent().run(process(&words), true, |source, bytes| {
            let (lines, kept) = match source {
                LogSource::Stderr => (&mut err, &mut errors),
                _ => (&mut out, &mut stdout),
            };
            lines.push(bytes, |line| on_line(source, line));
            kept.push(bytes);
        });
        let exit = tokio::select! {
            exit = ran => exit?,
            ended = stage.microvm().exited() => return Err(died(ended, stage)),
        };
        out.flush(|line| on_line(LogSource::Stdout, line));
        err.flush(|line| on_line(LogSource::Stderr, line));
        Ok(Finished { exit, stdout: stdout.text(), errors: errors.text() })
    }
}

/// Result of a script.
struct Finished {
    exit: Exit,
    stdout: String,
    errors: String,
}

impl Finished {
    /// The script's stdout, if it has succeeded.
    fn success(self, what: &str) -> Result<String, BuildError> {
        match self.exit.code {
            0 => Ok(self.stdout),
            code => Err(full_or(&self.errors, || {
                BuildError::Platform(format!("{what} failed (exit status {code}): {}", self.errors.trim()))
            })),
        }
    }
}

/// A thread that panics aborts the daemon: what the lock guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error for a full disk if `text` reports one; else `other`.
fn full_or(text: &str, other: impl FnOnce() -> BuildError) -> BuildError {
    if is_full(text.as_bytes()) {
        BuildError::failed(FailureCode::DiskStorageFull, "in the builder")
    } else {
        other()
    }
}

fn died(
    ended: Result<hearth_proto::vmm::v1::ExitReason, hearth_host::microvm::MicrovmError>,
    stage: &Stage,
) -> BuildError {
    let how = ended
        .map_or_else(|error| error.to_string(), |reason| format!("{:?}: {}", reason.kind(), reason.message));
    BuildError::Platform(format!(
        "the builder microVM ended ({how}); its console says:\n{}",
        stage.microvm().last_words()
    ))
}

fn process(words: &[&str]) -> proto::Process {
    proto::Process {
        arguments: words.iter().map(|word| (*word).to_owned()).collect(),
        environment: vec!["HOME=/root".into(), "LC_ALL=C.UTF-8".into()],
        working_directory: "/".into(),
        user: String::new(),
    }
}
