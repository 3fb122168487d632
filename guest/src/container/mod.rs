//! Container processes: second copies of this binary, each with one thread.
//!
//! The agent has several threads, and a process with several can neither enter a mount namespace nor safely do much between
//! `fork` and `exec`. So it [starts](spawn) its own program anew under the name [`NAME`], with one of these commands:
//!
//! ```text
//!   prepare   mounts the root disk and the rest in new namespaces, waits until the agent holds them     prepare.rs
//!   run       enters them, takes user, capabilities, filter and terminal, executes the program          launch.rs, execute/
//!   unpack    enters them, unpacks a tar archive from stdin                                             archive.rs
//!   pack      enters them, packs an archive to stdout                                                   archive.rs
//!   release   enters them, unmounts all file systems                                                    prepare.rs
//! ```
//!
//! All but `release` first enter the control groups that are frozen together with the app.
//!
//! The app is PID 1 of its PID namespace: the thread that starts `run` for it has created a new one for its children. A `run`
//! beside the app is started by a thread that has entered the app's namespace, so that every process here is the agent's own child.
//!
//! The job comes as a message ([`job`]) in a file; a failure is returned as the protocol's `Failure` on a pipe that is closed
//! when the program is executed.

pub mod archive;
pub mod capabilities;
mod execute;
pub mod files;
pub mod job;
pub mod launch;
pub mod prepare;
pub mod seccomp;
pub mod spawn;
pub mod user;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd};

use hearth_proto::guest::v1::Failure;
use prost::Message;

use crate::refusal::{Context as _, Refusal};
use crate::system::{cgroup, check, namespaces};

/// The first argument of a container process.
pub const NAME: &str = "hearth-container";

/// Descriptors that a container process inherits; their numbers are its arguments.
#[derive(Debug)]
struct InheritedDescriptors {
    job: OwnedFd,
    report: OwnedFd,
    /// `cgroup.procs` of the control groups that are frozen together with the app.
    entrances: Vec<OwnedFd>,
    /// Mount, UTS, IPC and cgroup namespace, where the container exists already.
    namespaces: Option<[OwnedFd; 4]>,
}

/// Runs the command in the arguments (after the first), and returns the exit status. Never returns where the process executes
/// another program.
pub fn main(arguments: impl Iterator<Item = OsString>) -> u8 {
    let arguments: Vec<_> = arguments.filter_map(|argument| argument.into_string().ok()).collect();
    let Some((kind, mut inherited)) =
        arguments.split_first().and_then(|(kind, rest)| Some((kind, inherited(rest)?)))
    else {
        return 2;
    };
    let result = protect_this_process().and_then(|()| join(&inherited)).and_then(|()| match kind.as_str() {
        "prepare" => prepare::prepare(&read_job(&mut inherited)?),
        "run" => run(&mut inherited).map(|never| match never {}),
        "unpack" => enter(&inherited).and_then(|()| archive::unpack(&read_job(&mut inherited)?)),
        "pack" => enter(&inherited).and_then(|()| archive::pack(&read_job(&mut inherited)?)),
        "release" => prepare::release(|| enter(&inherited)),
        other => Err(Refusal::invalid(format!("{other:?} is no kind of a container process"))),
    });
    match result {
        Ok(()) if kind == "prepare" => {
            drop(inherited);
            wait_for_the_agent();
            0
        }
        Ok(()) => 0,
        Err(refusal) => {
            let report = Failure::from(refusal).encode_to_vec();
            // An error is dropped: the agent may be gone, and nobody else reads the report.
            let _ = File::from(inherited.report).write_all(&report);
            1
        }
    }
}

/// Enters the control groups. If they are frozen, this process freezes here.
fn join(inherited: &InheritedDescriptors) -> Result<(), Refusal> {
    cgroup::enter(&inherited.entrances).or_refuse(|| "entering the app's control group")
}

fn run(inherited: &mut InheritedDescriptors) -> Result<Infallible, Refusal> {
    let job = read_job(inherited)?;
    enter(inherited)?;
    launch::launch(&job)
}

/// Protects this process until the program is executed: nothing in the container may look into this process or through it, and
/// no descriptor but stdin, stdout and stderr may reach the program.
fn protect_this_process() -> Result<(), Refusal> {
    // SAFETY: neither call takes a pointer.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) }).or_refuse(|| "closing a process to others")?;
    launch::close_on_exec().or_refuse(|| "closing what a program must not get")
}

/// Takes over the descriptors whose numbers are in the arguments.
fn inherited(numbers: &[String]) -> Option<InheritedDescriptors> {
    let numbers: Vec<RawFd> = numbers.iter().map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let in_range = numbers.iter().all(|number| *number > 2);
    let take = |number: RawFd| {
        // SAFETY: the agent has opened these for this process, and nothing in it has used them before.
        unsafe { OwnedFd::from_raw_fd(number) }
    };
    let [job, report, rest @ ..] = numbers.as_slice() else { return None };
    // Two entrances or none, four namespaces or none.
    let (entrances, namespaces) = match rest.len() {
        0 | 4 => (&[][..], rest),
        2 | 6 => rest.split_at(2),
        _ => return None,
    };
    if !in_range {
        return None;
    }
    let namespaces = match *namespaces {
        [mount, uts, ipc, cgroup] => Some([take(mount), take(uts), take(ipc), take(cgroup)]),
        _ => None,
    };
    let entrances = entrances.iter().copied().map(take).collect();
    Some(InheritedDescriptors { job: take(*job), report: take(*report), entrances, namespaces })
}

fn read_job<M: Message + Default>(inherited: &mut InheritedDescriptors) -> Result<M, Refusal> {
    let mut bytes = Vec::new();
    let job = inherited.job.as_fd().try_clone_to_owned().or_refuse(|| "opening a job")?;
    File::from(job).read_to_end(&mut bytes).or_refuse(|| "reading a job")?;
    M::decode(bytes.as_slice()).map_err(|error| Refusal::invalid(format!("a job cannot be decoded: {error}")))
}

/// Enters the container's namespaces; its root becomes this process's.
fn enter(inherited: &InheritedDescriptors) -> Result<(), Refusal> {
    let Some([mount, uts, ipc, cgroup]) = &inherited.namespaces else {
        return Err(Refusal::invalid("there is no container to enter"));
    };
    let kinds = [
        (cgroup, libc::CLONE_NEWCGROUP),
        (uts, libc::CLONE_NEWUTS),
        (ipc, libc::CLONE_NEWIPC),
        (mount, libc::CLONE_NEWNS),
    ];
    for (namespace, kind) in kinds {
        namespaces::enter(namespace, kind).or_refuse(|| "entering the container")?;
    }
    Ok(())
}

/// Waits until the agent, which holds the other end of stdin, closes it.
fn wait_for_the_agent() {
    let _ = io::stdin().read(&mut [0]);
}
