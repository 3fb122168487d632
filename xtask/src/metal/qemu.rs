//! Boots the emulated metal, runs one job on it and waits until it has ended.
//!
//! Init reports on the port `hearth.status`, one line each: `ready UPTIME` before the command starts, `exit STATUS`
//! after it, `done` when the outputs are on their drive, or `fail REASON`. The kernel's console is written to a log file,
//! whose end is shown if the metal dies without a report of `done`.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::image::Image;
use super::{Action, Cpu, EmulatedHost, Finished, Job, Stopped, disks, ports, terminal, transfer};
use crate::command;
use crate::progress;

/// How long QEMU may take to exit after init has reported `done`.
const POWER_OFF: Duration = Duration::from_secs(30);
/// Interval between checks whether QEMU still runs.
const POLL: Duration = Duration::from_millis(200);

/// Runs a job in the emulated metal with its files in `folder`.
pub(crate) fn run(folder: &Path, image: &Image, job: &Job) -> Result<Finished> {
    let inputs = folder.join("in.tar");
    transfer::pack(&inputs, job)?;
    let console = folder.join("console.log");

    let mut qemu = Command::new("qemu-system-aarch64");
    qemu.args(machine_arguments(&job.emulated_host));
    qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
    qemu.arg("-serial").arg(prefixed("file:", &console));
    qemu.args(network_arguments(&job.forwards));
    drive(&mut qemu, "in", &inputs, "readonly=on", "");
    if !job.outputs.is_empty() {
        let outputs = folder.join("out.tar");
        transfer::empty_drive(&outputs)?;
        drive(&mut qemu, "out", &outputs, "discard=unmap", "");
    }
    for (index, (file, name)) in job.disks.iter().enumerate() {
        disks::check_name(name)?;
        drive(&mut qemu, &format!("disk{index}"), file, "readonly=on", &format!(",serial={name}"));
    }
    qemu.args(["-device", "virtio-serial-pci"]);
    let status = port(&mut qemu, "status")?;
    let mut streams = Vec::new();
    match job.action {
        Action::Shell => {
            let (console, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
            ports::give(&mut qemu, "shell", theirs);
            qemu.args(["-device", "virtconsole,chardev=shell"]);
            streams.push(console);
        }
        Action::Run(_) => {
            streams.push(port(&mut qemu, "stdout")?);
            streams.push(port(&mut qemu, "stderr")?);
            if let Some(stdin) = &job.stdin {
                give_port(&mut qemu, "stdin", stdin.try_clone()?);
            }
        }
    }
    let qemu_log = std::fs::File::create(folder.join("qemu.log"))?;
    qemu.stdin(Stdio::null()).stdout(qemu_log.try_clone()?).stderr(qemu_log);
    hearth_sys::die_with_starter(&mut qemu);

    let start = Instant::now();
    let child = qemu.spawn().context("cannot run qemu-system-aarch64; is it installed?")?;
    // Dropping the command closes this process's copies of the far ends.
    drop(qemu);
    let deadline = job.timeout.map(|timeout| start + timeout);
    let mut running = Running { child, lines: read_lines(status), start, deadline, stop: job.stop.clone() };

    let (copies, terminal) = match job.action {
        Action::Shell => (Vec::new(), streams.pop().map(terminal::connect).transpose()?),
        Action::Run(_) => {
            let stderr = streams.pop().map(|stream| copy(stream, io::stderr(), job));
            let stdout = streams.pop().map(|stream| copy(stream, io::stdout(), job));
            (stdout.into_iter().chain(stderr).collect(), None)
        }
    };
    let result = running.wait(job);
    drop(running);
    join(copies);
    drop(terminal);
    let finished = result.map_err(|error| match error.downcast::<Stopped>() {
        Ok(stopped) => stopped.into(),
        Err(error) => explain(error, folder, &console),
    })?;
    transfer::unpack(folder, job, finished.status)?;
    Ok(finished)
}

/// Copies an output of the job to one of xtask's own.
fn copy(from: UnixStream, to: impl io::Write + Send + 'static, job: &Job) -> JoinHandle<()> {
    match &job.prefix {
        Some(prefix) => ports::stream(from, ports::Prefixed::new(prefix, to)),
        None => ports::stream(from, to),
    }
}

fn machine_arguments(host: &EmulatedHost) -> Vec<String> {
    let cpu = match host.cpu {
        Cpu::NeoverseN1 => "neoverse-n1",
        Cpu::NeoverseV1 => "neoverse-v1,pauth-impdef=on",
        Cpu::Max => "max,pauth-impdef=on",
    };
    let mut arguments: Vec<String> = [
        "-M",
        "virt,virtualization=on,gic-version=3",
        "-cpu",
        cpu,
        "-smp",
        &host.processors.to_string(),
        "-m",
        &host.memory_mib.to_string(),
        "-nodefaults",
        "-display",
        "none",
        "-monitor",
        "none",
        "-no-reboot",
        "-append",
        "console=ttyAMA0 quiet panic=-1",
    ]
    .map(String::from)
    .to_vec();
    let time: &[&str] = if host.icount {
        &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off,align=off"]
    } else {
        &["-accel", "tcg,thread=multi"]
    };
    arguments.extend(time.iter().map(ToString::to_string));
    arguments
}

fn network_arguments(forwards: &[(u16, u16)]) -> Vec<String> {
    let mut network = "user,id=network".to_string();
    for (here, there) in forwards {
        network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}"));
    }
    vec!["-netdev".into(), network, "-device".into(), "virtio-net-pci,netdev=network,romfile=".into()]
}

fn drive(qemu: &mut Command, id: &str, file: &Path, options: &str, device_options: &str) {
    // Commas in a value of a QEMU option have to be doubled.
    let file = file.to_string_lossy().replace(',', ",,");
    qemu.args(["-drive", &format!("id={id},if=none,format=raw,cache=unsafe,{options},file={file}")]);
    qemu.args(["-device", &format!("virtio-blk-pci,drive={id}{device_options}")]);
}

fn port(qemu: &mut Command, name: &str) -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
    give_port(qemu, name, theirs);
    Ok(ours)
}

/// Gives the metal a port at the other end of which this stream is.
fn give_port(qemu: &mut Command, name: &str, stream: UnixStream) {
    ports::give(qemu, name, stream);
    qemu.args(["-device", &format!("virtserialport,chardev={name},name=hearth.{name}")]);
}

fn prefixed(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}

fn read_lines(from: UnixStream) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

fn join(copies: Vec<JoinHandle<()>>) {
    for copy in copies {
        // A copy that has panicked has no more output.
        let _ = copy.join();
    }
}

/// A QEMU process that is killed when this is dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
    start: Instant,
    deadline: Option<Instant>,
    stop: Arc<AtomicBool>,
}

impl Running {
    /// Follows init's reports until the machine is off.
    fn wait(&mut self, job: &Job) -> Result<Finished> {
        let mut ready = None;
        let mut exit = None;
        loop {
            let line = self.next_line()?;
            let now = Instant::now();
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("ready", uptime) => {
                    ready = Some(now);
                    if job.announce {
                        let boot = progress::clock(now - self.start);
                        let prefix = job.prefix.as_deref().unwrap_or_default();
                        progress::note(&format!(
                            "{prefix}metal: up after {boot} (its own clock: {uptime} s)"
                        ));
                    }
                }
                ("exit", status) => {
                    let status =
                        status.parse().with_context(|| format!("init reported the status {status}"))?;
                    exit = Some((now, status));
                }
                ("done", _) => {
                    let (Some(ready), Some((end, status))) = (ready, exit) else {
                        bail!("init said `done` without having run the command");
                    };
                    self.power_off()?;
                    return Ok(Finished { status, boot: ready - self.start, command: end - ready });
                }
                ("fail", reason) => bail!("on the metal, {reason}"),
                _ => bail!("init sent an unknown line: {line}"),
            }
        }
    }

    fn next_line(&mut self) -> Result<String> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Stopped.into());
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                bail!("the time-out of {} is over", progress::clock(self.start.elapsed()));
            }
            match self.lines.recv_timeout(POLL) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("the metal died before it reported the command's end (QEMU: {status})");
                }
            }
        }
    }

    fn power_off(&mut self) -> Result<()> {
        let deadline = Instant::now() + POWER_OFF;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                bail!("the metal does not power off");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the process has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Adds the output of QEMU and of the kernel to an error.
fn explain(error: anyhow::Error, folder: &Path, console: &Path) -> anyhow::Error {
    let mut text = format!("{error:#}");
    let qemu_log = folder.join("qemu.log");
    for (what, path) in [("QEMU said", &qemu_log), ("the metal's console ends with", &console.to_path_buf())]
    {
        let tail = command::tail(path, 30);
        if !tail.trim().is_empty() {
            text.push_str(&format!("\n{what} ({}):\n{tail}", path.display()));
        }
    }
    anyhow!(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_counting_excludes_parallel_processors() {
        let normal = machine_arguments(&EmulatedHost::default()).join(" ");
        assert!(
            normal.contains("thread=multi") && normal.contains("neoverse-n1") && !normal.contains("icount")
        );
        let counted = EmulatedHost { icount: true, cpu: Cpu::Max, ..EmulatedHost::default() };
        let counted = machine_arguments(&counted).join(" ");
        assert!(counted.contains("-icount shift=0,sleep=off,align=off") && !counted.contains("thread=multi"));
        assert!(counted.contains("max,pauth-impdef=on"));
    }

    #[test]
    fn ports_are_forwarded_from_loopback_only() {
        let text = network_arguments(&[(8080, 80), (1, 2)]).join(" ");
        assert!(text.contains("user,id=network,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=tcp:127.0.0.1:1-:2"));
    }
}
