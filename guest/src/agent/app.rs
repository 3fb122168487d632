//! The container and the app in it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hearth_proto::guest::v1::{Configure, Exited, LogSource, Process, StartApp};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Agent, App, Container, NOFILE, NOFILE_RAISED};
use crate::container::job::{Prepare, Run};
use crate::container::prepare;
use crate::container::spawn::{Namespaces, PidNamespace, SpawnRequest};
use crate::generation::{self, Generation};
use crate::init::console;
use crate::logs::reader;
use crate::refusal::{Context as _, Refusal};
use crate::system::cgroup::{self, Groups};
use crate::system::{duplicate, namespaces, netlink};

/// The container's host name unless it is given one.
const HOSTNAME: &str = "localhost";

/// How long the end of an app waits for the last lines of its output to be recorded before it is reported. They are recorded at
/// once, unless the host reads no records and the log is full.
const LAST_LINES: Duration = Duration::from_secs(2);

impl Agent {
    /// Mounts the root disk, makes the container, and configures the network card.
    pub(super) async fn configure(&self, request: Configure) -> Result<(), Refusal> {
        let _making = self.making.lock().await;
        if self.state().container.is_some() {
            return Err(Refusal::invalid("the container is configured already"));
        }
        if let Some(network) = &request.network {
            netlink::configure_card(network)?;
        }
        let hostname = if request.hostname.is_empty() { HOSTNAME } else { &request.hostname };
        let groups = Groups::make(Path::new(cgroup::FOLDER), request.all_capabilities);
        let groups = groups.or_refuse(
            || "making the app's control groups, for which the guest's kernel needs CONFIG_CGROUPS",
        )?;
        // Apps run without it, too.
        match Generation::mount() {
            Ok(generation) => self.state().generation = Some(generation),
            Err(error) => console(&format!("hearth-guest: {}: {error}", generation::FOLDER)),
        }
        let job = Prepare {
            root: request.root,
            all_capabilities: request.all_capabilities,
            hostname: hostname.to_string(),
            shm_mib: request.shm_mib,
            keep_etc: request.keep_etc,
        };
        let (stdin, hold) = io::pipe().or_refuse(|| "making a pipe")?;
        let mut started = self.spawner.start(SpawnRequest {
            kind: "prepare",
            job: &job,
            container: None,
            groups: Some(&groups),
            pids: PidNamespace::Agents,
            streams: [stdin.into(), Stdio::null(), Stdio::null()],
        })?;
        started.succeeded().await?;
        // Not before: the process that mounts the root disk is in the groups.
        if !request.all_capabilities {
            groups.limit_devices(&prepare::ALLOWED).or_refuse(
                || "limiting the app's devices, for which the guest's kernel needs CONFIG_CGROUP_BPF",
            )?;
        }
        let open = |kind| namespaces::open(started.pid, kind).or_refuse(|| "opening the container");
        let namespaces =
            Namespaces { mount: open("mnt")?, uts: open("uts")?, ipc: open("ipc")?, cgroup: open("cgroup")? };
        let terminals = File::open(format!("/proc/{}/root/dev/pts", started.pid));
        let terminals = terminals.or_refuse(|| "opening the container's terminals")?.into();
        drop(hold);
        let nofile = if request.nofile == 0 { NOFILE } else { request.nofile.min(NOFILE_RAISED) };
        let raisable = request.nofile_hard == 0 || request.all_capabilities;
        let nofile_hard =
            if raisable { NOFILE_RAISED } else { request.nofile_hard.clamp(nofile, NOFILE_RAISED) };
        let all_capabilities = request.all_capabilities;
        let frozen = AtomicBool::new(false);
        let nofile = (nofile, nofile_hard);
        let keep_etc = request.keep_etc;
        let container =
            Container { namespaces, groups, frozen, terminals, all_capabilities, nofile, keep_etc };
        self.state().container = Some(Arc::new(container));
        self.set_network(request.network);
        self.metadata.set_metadata(request.metadata.unwrap_or_default());
        Ok(())
    }

    /// Starts the app. Returns when its program has been executed.
    pub(super) async fn start_app(self: &Arc<Self>, request: StartApp) -> Result<(), Refusal> {
        let _making = self.making.lock().await;
        let container = self.container()?;
        container.must_not_be_frozen("no app can be started")?;
        if self.state().app.is_some() {
            return Err(Refusal::invalid("the app was started already"));
        }
        let (stdout, stdout_writer) = io::pipe().or_refuse(|| "making a pipe")?;
        let (stderr, stderr_writer) = io::pipe().or_refuse(|| "making a pipe")?;
        // Every step that can fail comes before the app runs.
        let copy = |pipe| duplicate(pipe).or_refuse(|| "duplicating a pipe");
        let outputs = [copy(&stdout)?, copy(&stderr)?];
        let process = request.process.clone().unwrap_or_default();
        let job = container.run_job(request.process, true, container.all_capabilities);
        let mut started = self.spawner.start(SpawnRequest {
            kind: "run",
            job: &job,
            container: Some(&container.namespaces),
            groups: Some(&container.groups),
            pids: PidNamespace::New,
            streams: [Stdio::null(), stdout_writer.into(), stderr_writer.into()],
        })?;
        // Opened before the first await: until then the process cannot be reaped, even if it has terminated.
        let pids = namespaces::open(started.pid, "pid").or_refuse(|| "opening the app's PID namespace")?;
        started.succeeded().await?;
        let readers = [(stdout, LogSource::Stdout), (stderr, LogSource::Stderr)].map(|(pipe, source)| {
            let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(pipe));
            let ring = Arc::clone(&self.logs);
            tokio::spawn(async move {
                if let Ok(pipe) = pipe {
                    reader::read(pipe, source, ring).await;
                }
            })
        });
        let (tell, exited) = watch::channel(None);
        tokio::spawn(async move {
            let end = started.exited.await.unwrap_or_default();
            let all_read = async {
                for reader in readers {
                    let _ = reader.await;
                }
            };
            let _ = timeout(LAST_LINES, all_read).await;
            let _ = tell.send(Some(end));
        });
        self.state().app = Some(Arc::new(App { pids, process, outputs, exited }));
        Ok(())
    }

    /// Waits until the app has terminated.
    pub(super) async fn wait_app(&self) -> Result<Exited, Refusal> {
        let mut exited = self.app()?.exited.clone();
        let end = exited.wait_for(Option::is_some).await;
        Ok(end.ok().and_then(|end| *end).unwrap_or_default())
    }

    /// The app, running or terminated.
    pub(super) fn app(&self) -> Result<Arc<App>, Refusal> {
        let app = self.state().app.clone();
        app.ok_or_else(|| Refusal::invalid("the app was not started yet: send StartApp first"))
    }
}

impl App {
    /// A process that runs beside the app: what it does not set itself of environment and working directory is the app's.
    pub(super) fn beside(&self, mut process: Process) -> Process {
        let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
        let own: Vec<String> = process.environment.iter().map(|entry| name(entry)).collect();
        let inherited = self.process.environment.iter().filter(|entry| !own.contains(&name(entry))).cloned();
        process.environment = inherited.chain(process.environment).collect();
        if process.working_directory.is_empty() {
            process.working_directory.clone_from(&self.process.working_directory);
        }
        process
    }
}

impl Container {
    /// The job of a process in this container.
    pub(super) fn run_job(&self, process: Option<Process>, first: bool, all_capabilities: bool) -> Run {
        Run {
            process,
            first,
            unrestricted: self.all_capabilities,
            all_capabilities,
            nofile: self.nofile.0,
            nofile_hard: if all_capabilities { NOFILE_RAISED } else { self.nofile.1 },
            terminal: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_beside_the_app_has_what_the_app_has_unless_it_says_otherwise() {
        let process = |environment: &[&str], folder: &str| Process {
            environment: environment.iter().map(ToString::to_string).collect(),
            working_directory: folder.to_owned(),
            ..Process::default()
        };
        let (_, exited) = watch::channel(None);
        let pids = File::open("/proc/self/ns/pid").unwrap().into();
        let outputs = [(), ()].map(|()| io::pipe().unwrap().0.into());
        let app = App { pids, process: process(&["A=1", "TERM=dumb", "B=a=b"], "/srv"), outputs, exited };
        assert_eq!(
            app.beside(process(&["TERM=xterm"], "")),
            process(&["A=1", "B=a=b", "TERM=xterm"], "/srv")
        );
        assert_eq!(app.beside(process(&[], "/tmp")), process(&["A=1", "TERM=dumb", "B=a=b"], "/tmp"));
    }
}
