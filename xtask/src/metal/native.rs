//! Runs a job on this machine, which is ARM64 metal: inputs and outputs are in a scratch folder.

use std::env;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Action, Finished, Job, Stopped, disks, transfer};
use crate::command;
use crate::progress;

/// Runs a job with `folder` as its scratch folder.
pub(crate) fn run(folder: &Path, job: &Job) -> Result<Finished> {
    let start = Instant::now();
    let (inputs, outputs) = (folder.join("in"), folder.join("out"));
    fs::create_dir_all(&inputs)?;
    fs::create_dir_all(&outputs)?;
    for (source, name) in &job.inputs {
        let source = fs::canonicalize(source).with_context(|| format!("no input {}", source.display()))?;
        transfer::copy(&source, &inputs.join(name))?;
    }
    disks::link(&folder.join("disks"), &job.disks)?;
    if job.emulated_host.icount {
        progress::note("metal: instructions are not counted here, this is real hardware");
    }
    for (here, there) in job.forwards.iter().filter(|(here, there)| here != there) {
        progress::note(&format!("metal: port {there} is not forwarded to {here}: it is on this machine"));
    }
    let mut program = match &job.action {
        Action::Shell => command::clean(env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())),
        Action::Run(words) => {
            let (program, arguments) = words.split_first().context("there is no command to run")?;
            let mut program = command::clean(program);
            program.args(arguments);
            program
        }
    };
    if let Some(stdin) = &job.stdin {
        program.stdin(OwnedFd::from(stdin.try_clone()?));
    }
    program.envs(job.environment.iter().map(|(name, value)| (name, value)));
    let ready = Instant::now();
    let child = program.spawn().with_context(|| format!("cannot run `{}`", command::line(&program)))?;
    let status = wait(child, job)?;
    let end = Instant::now();
    transfer::deliver(&outputs, job, status)?;
    Ok(Finished { status, boot: ready - start, command: end - ready })
}

fn wait(mut child: Child, job: &Job) -> Result<u8> {
    let deadline = job.timeout.map(|timeout| Instant::now() + timeout);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(shell_status(status));
        }
        let stopped = job.stop.load(Ordering::Relaxed);
        if stopped || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            child.kill()?;
            child.wait()?;
            if stopped {
                return Err(Stopped.into());
            }
            bail!("the time-out of {} is over", progress::clock(job.timeout.unwrap_or_default()));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The status as in a shell: 128 + signal if a signal terminated the command.
fn shell_status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_runs_in_a_scratch_folder() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::write(&source, "hello").unwrap();
        let script = "cp $HEARTH_IN/renamed $HEARTH_OUT/back; exit 7";
        let mut job = Job::new(Action::Run(["sh", "-c", script].map(Into::into).to_vec()));
        let scratch = folder.path().join("scratch");
        job.environment = vec![
            ("HEARTH_IN".into(), scratch.join("in").into()),
            ("HEARTH_OUT".into(), scratch.join("out").into()),
        ];
        job.inputs = vec![(source, "renamed".into())];
        job.outputs = vec![("back".into(), folder.path().join("result"))];
        assert_eq!(run(&scratch, &job).unwrap().status, 7);
        assert_eq!(fs::read_to_string(folder.path().join("result")).unwrap(), "hello");
    }

    #[test]
    fn signals_and_time_limits_end_a_job() {
        let folder = tempfile::tempdir().unwrap();
        let killed = Job::new(Action::Run(["sh", "-c", "kill -9 $$"].map(Into::into).to_vec()));
        assert_eq!(run(folder.path(), &killed).unwrap().status, 137);
        let mut slow = Job::new(Action::Run(["sleep", "30"].map(Into::into).to_vec()));
        slow.timeout = Some(Duration::from_millis(100));
        assert!(run(folder.path(), &slow).is_err());
    }
}
