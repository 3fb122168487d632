//! The process that reads an object: `hearth-vmm scrub` in the jail, since it parses what monitors have written.
//!
//! A thread owns the process: it opens the files, starts it, takes its reports and reaps it. The process dies with the
//! thread, and with the future that waits for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hearth_model::text::harmless;
use hearth_sys::{die_with_starter, pass};
use hearth_vmm_api::scrub::{ScrubReport, ScrubTask, files_of};
use hearth_vmm_api::socket::PacketSocket;
use hearth_vmm_jail::{JailConfig, clean_up, prepare};
use tokio::sync::oneshot;

use super::objects::Object;
use crate::metrics::Metrics;

/// How long the process is waited for before it is looked at whether it is to go on.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time in which the process says nothing: it says how much was read every 4 MiB, and twice a second when it waits. A
/// disk that is busy serves everybody else first.
const SILENCE: Duration = Duration::from_secs(600);
/// Longest time of a reading, beside twice what it takes at the configured rate: a process that was taken over must not keep the next
/// objects from being read.
const LONGEST: Duration = Duration::from_secs(3600);
/// Most files of an object; a packet holds no more descriptors.
const FILES: usize = 200;
/// Most things that are kept of one object's damage.
const DAMAGE: usize = 32;
/// Most bytes of what it says of one.
const TEXT: usize = 1000;
/// Bytes of the largest file that the process may write: checksums.
const FILE_BYTES: u64 = 64 << 20;
/// What the process calls checksums that the scrub has made.
const OWN_SUMS: &str = "checksums";

/// How the process is started.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    /// The program `hearth-vmm`.
    pub(super) program: PathBuf,
    /// A folder of its own, in which nothing is left.
    pub(super) run: PathBuf,
    pub(super) jail: JailConfig,
    /// Bytes that are read in a second.
    pub(super) rate: u64,
}

/// What was found in an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Files that are damaged, and what is wrong with each.
    pub(super) damage: Vec<(String, String)>,
    /// Files without checksums of all that they have.
    pub(super) uncovered: Vec<String>,
}

/// How a reading has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All was read.
    Read(Found),
    /// The object was removed meanwhile.
    Gone,
    /// It is not known how the object is, for this reason.
    Unknown(String),
}

impl Worker {
    /// Reads an object. Dropping the future ends the reading.
    pub(super) async fn read(&self, object: &Object, metrics: &Metrics) -> Outcome {
        let (done, ended) = oneshot::channel();
        let stop = StopOnDrop::default();
        let (worker, object, metrics) = (self.clone(), object.clone(), metrics.clone());
        let stopped = Arc::clone(&stop.0);
        let thread = std::thread::Builder::new().name("scrub".to_owned());
        let thread = thread.spawn(move || {
            let reading = Reading { worker: &worker, object: &object, metrics: &metrics, stop: &stopped };
            // Nobody waits any more if it cannot be sent.
            let _ = done.send(reading.run().unwrap_or_else(Outcome::Unknown));
        });
        if let Err(error) = thread {
            return Outcome::Unknown(format!("starting a thread: {error}"));
        }
        ended.await.unwrap_or_else(|_| Outcome::Unknown("its thread has ended".to_owned()))
    }
}

#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A reading that is under way.
struct Reading<'a> {
    worker: &'a Worker,
    object: &'a Object,
    metrics: &'a Metrics,
    stop: &'a AtomicBool,
}

fn during(what: &str) -> impl FnOnce(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

impl Reading<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || !self.object.folder.is_dir()
    }

    fn run(&self) -> Result<Outcome, String> {
        let files = match files_of(&self.object.folder) {
            Ok(files) => files,
            Err(_) if self.is_over() => return Ok(Outcome::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Gone),
            Err(error) => return Err(format!("opening its files: {error}")),
        };
        if files.len() > FILES {
            return Err(format!("it has {} files", files.len()));
        }
        let sums = File::open(self.object.sums()).ok();
        let made = if sums.is_none() {
            Some(self.object.new_sums().map_err(during("making a file"))?)
        } else {
            None
        };
        let outcome = self.in_jail(files, sums, made.as_ref());
        match (&outcome, made) {
            (Ok(Outcome::Read(found)), Some(made)) if found.damage.is_empty() => {
                self.object.keep_sums(&made).map_err(during("keeping checksums"))?;
            }
            _ => {} // the file goes with the next reading
        }
        outcome
    }

    /// Prepares the jail, and removes what was made for it.
    fn in_jail(
        &self,
        files: BTreeMap<String, File>,
        sums: Option<File>,
        made: Option<&File>,
    ) -> Result<Outcome, String> {
        let run = &self.worker.run;
        let folder = || {
            if run.exists() {
                fs::remove_dir_all(run)?; // an earlier daemon's
            }
            fs::create_dir_all(run)
        };
        folder().map_err(during("making the folder of the jail"))?;
        let jail = JailConfig { fsize: Some(FILE_BYTES), cgroup: None, ..self.worker.jail.clone() };
        let jail = prepare(run, &jail).map_err(|error| error.to_string())?;
        let outcome = self.converse(&jail, files, sums, made);
        let _ = clean_up(&jail); // an error leaves an empty folder, which the next reading removes
        outcome
    }

    fn converse(
        &self,
        jail: &JailConfig,
        files: BTreeMap<String, File>,
        sums: Option<File>,
        made: Option<&File>,
    ) -> Result<Outcome, String> {
        let (socket, theirs) = PacketSocket::pair().map_err(during("making a socket"))?;
        let mut child = start(&self.worker.program, jail, theirs.into())
            .map_err(during(&format!("starting {}", self.worker.program.display())))?;
        let outcome = self.talk(&socket, files, sums, made);
        // Whatever it has said, it is over.
        let _ = child.kill();
        let status = child.wait().map_err(during("waiting for the process"))?;
        outcome.map_err(|why| format!("{why} ({status})"))
    }

    fn talk(
        &self,
        socket: &PacketSocket,
        files: BTreeMap<String, File>,
        sums: Option<File>,
        made: Option<&File>,
    ) -> Result<Outcome, String> {
        socket.set_timeout(Some(LOOK)).map_err(during("setting a deadline"))?;
        let task = ScrubTask {
            rate: self.worker.rate,
            make: made.is_some(),
            sums: usize::from(sums.is_some()),
            names: files.keys().cloned().collect(),
        };
        let stored = files.values().filter_map(|file| file.metadata().ok());
        let mut left = stored.fold(0_u64, |sum, file| sum.saturating_add(file.blocks().saturating_mul(512)));
        let twice = left.saturating_mul(2).checked_div(self.worker.rate).unwrap_or_default();
        let (begun, longest) = (Instant::now(), LONGEST.saturating_add(Duration::from_secs(twice)));
        let descriptors: Vec<_> = sums.iter().chain(made).chain(files.values()).map(File::as_fd).collect();
        socket.send(&task.encode(), &descriptors).map_err(during("sending the files"))?;
        drop(descriptors);
        // From here on only the process has them open: what is removed takes no room once it is killed.
        drop((files, sums));
        let (mut found, mut packet, mut heard) = (Found::default(), Vec::new(), Instant::now());
        loop {
            if self.is_over() {
                return Ok(Outcome::Gone);
            }
            if begun.elapsed() > longest {
                return Err(format!("the process has read for more than {} s", longest.as_secs()));
            }
            match socket.receive(&mut packet) {
                Ok(Some(_)) => heard = Instant::now(),
                Ok(None) => return Err("the process has ended".to_owned()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && heard.elapsed() < SILENCE => {
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(format!("the process said nothing for {} s", SILENCE.as_secs()));
                }
                Err(error) => return Err(format!("hearing the process: {error}")),
            }
            match ScrubReport::decode(&packet).ok_or("the process said something that is no report")? {
                ScrubReport::Read(bytes) => {
                    let bytes = bytes.min(left); // it may say anything
                    left -= bytes;
                    self.metrics.scrub_read(bytes);
                }
                ScrubReport::Damage { file, .. } if file == OWN_SUMS => {
                    // They are this daemon's alone, and are made again.
                    tracing::warn!(path = %self.object.sums().display(), "checksums are damaged: they are made again");
                    let _ = fs::remove_file(self.object.sums());
                    return Ok(Outcome::Unknown("its checksums were damaged".to_owned()));
                }
                ScrubReport::Damage { file, text } if found.damage.len() < DAMAGE => {
                    found.damage.push((harmless(file.as_bytes(), TEXT), harmless(text.as_bytes(), TEXT)))
                }
                ScrubReport::Uncovered(file) if found.uncovered.len() < FILES => {
                    found.uncovered.push(harmless(file.as_bytes(), TEXT))
                }
                ScrubReport::Damage { .. } | ScrubReport::Uncovered(_) => {}
                ScrubReport::Done => return Ok(Outcome::Read(found)),
            }
        }
    }
}

fn start(program: &Path, jail: &JailConfig, socket: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(program);
    let socket = pass(&mut command, socket);
    command
        .arg("scrub")
        .args(["--control-fd", &socket.to_string()])
        .args(jail.to_args())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    die_with_starter(&mut command);
    command.spawn()
}
