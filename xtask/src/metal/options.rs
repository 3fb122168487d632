//! The command line of `cargo xtask metal`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::{Action, Cpu, EmulatedHost, HostKernel, Job, Metal, disks};
use crate::cache::Cache;

/// Runs a command on ARM64 metal with KVM (this machine where it is such, else an emulated host).
///
/// The command's output is ours as it comes, its exit status is ours; 125 means that the metal itself failed. Files
/// given with --in lie in the folder $HEARTH_IN (/in on the emulated host), what is fetched with --out in
/// $HEARTH_OUT (/out). `cargo xtask metal shell` gives a prompt.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    emulated_host: EmulatedHostOptions,
    /// Bring a file or folder, under its own name or NAME
    #[arg(long = "in", value_name = "SRC[:NAME]", value_parser = parse_input)]
    inputs: Vec<(PathBuf, String)>,
    /// Fetch a file or folder afterwards
    #[arg(long = "out", value_name = "NAME:DST", value_parser = parse_output)]
    outputs: Vec<(String, PathBuf)>,
    /// Attach a file as a read-only disk: $HEARTH_DISKS/NAME (/dev/disk/NAME on the emulated host), its own name by default
    #[arg(long = "disk", value_name = "FILE[:NAME]", value_parser = parse_disk)]
    disks: Vec<(PathBuf, String)>,
    /// Bring programs of Debian: curl, docker-registry, e2fsprogs, iproute2, libstdc++, nftables, certificates
    #[arg(long)]
    debian: bool,
    /// Make a TCP port of the emulated host reachable on 127.0.0.1
    #[arg(long = "forward", value_name = "HOSTPORT:METALPORT", value_parser = parse_forward)]
    forwards: Vec<(u16, u16)>,
    /// Set an environment variable of the command
    #[arg(long = "env", value_name = "K=V", value_parser = parse_variable)]
    environment: Vec<(String, OsString)>,
    /// Give up after so many seconds (default: 3600 for commands, never for the shell)
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Say nothing of our own unless something fails
    #[arg(long, short)]
    quiet: bool,
    /// The command and its arguments, or `shell`
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What kind of emulated host it is.
#[derive(Args, Clone, Debug)]
pub(crate) struct EmulatedHostOptions {
    /// Count instructions as time (1 instruction = 1 ns): slow, but figures repeat
    #[arg(long)]
    icount: bool,
    /// Its processor
    #[arg(long, value_enum, default_value = "neoverse-n1")]
    cpu: CpuName,
    /// Its kernel: Debian's arm64 for clouds, or the one with pages of 16 KiB
    #[arg(long, value_enum, default_value = "cloud")]
    host_kernel: HostKernelName,
    /// Its memory
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(256..=1_048_576))]
    memory: u32,
    /// Its number of processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
}

/// A processor by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum CpuName {
    /// Graviton 2's core, without SVE and pointer authentication
    NeoverseN1,
    /// Graviton 3's core, with both
    NeoverseV1,
    /// Everything QEMU knows, with SVE and pointer authentication
    #[value(alias = "max,pauth-impdef=on")]
    Max,
}

/// A kernel by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum HostKernelName {
    /// linux-image-cloud-arm64
    Cloud,
    /// linux-image-arm64-16k
    #[value(name = "16k")]
    LargePages,
}

impl EmulatedHostOptions {
    /// The emulated host that the options describe.
    pub(crate) fn settings(&self) -> EmulatedHost {
        let cpu = match self.cpu {
            CpuName::NeoverseN1 => Cpu::NeoverseN1,
            CpuName::NeoverseV1 => Cpu::NeoverseV1,
            CpuName::Max => Cpu::Max,
        };
        let kernel = match self.host_kernel {
            HostKernelName::Cloud => HostKernel::Cloud,
            HostKernelName::LargePages => HostKernel::LargePages,
        };
        EmulatedHost { cpu, kernel, processors: self.smp, memory_mib: self.memory, icount: self.icount }
    }
}

impl Options {
    /// Runs the job and returns the command's exit status.
    pub(crate) fn run(self, cache: &Cache) -> Result<u8> {
        Ok(Metal::open(cache)?.run(self.job())?.status)
    }

    fn job(self) -> Job {
        let shell = self.command.len() == 1 && self.command.iter().all(|word| word == "shell");
        let mut job = Job::new(if shell { Action::Shell } else { Action::Run(self.command) });
        job.emulated_host = self.emulated_host.settings();
        job.inputs = self.inputs;
        job.outputs = self.outputs;
        job.disks = self.disks;
        job.debian = self.debian;
        job.forwards = self.forwards;
        job.environment = self.environment;
        job.timeout = self.timeout.map(Duration::from_secs).or(job.timeout);
        job.announce = !self.quiet;
        job
    }
}

fn parse_input(text: &str) -> Result<(PathBuf, String)> {
    let (source, name) = match text.rsplit_once(':') {
        Some((source, name)) => (source, name.to_string()),
        None => (text, String::new()),
    };
    let source = PathBuf::from(source);
    let name = if name.is_empty() { file_name(&source)? } else { name };
    plain_name(&name)?;
    Ok((source, name))
}

fn parse_disk(text: &str) -> Result<(PathBuf, String)> {
    let (file, name) = parse_input(text)?;
    disks::check_name(&name)?;
    Ok((file, name))
}

fn file_name(source: &Path) -> Result<String> {
    let full = std::path::absolute(source)?;
    let name =
        full.file_name().with_context(|| format!("{} has no name; write SRC:NAME", source.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

fn parse_output(text: &str) -> Result<(String, PathBuf)> {
    let (name, target) = text.split_once(':').context("write it as NAME:DST")?;
    plain_name(name)?;
    Ok((name.to_string(), target.into()))
}

/// Checks that a name cannot lead out of its folder.
fn plain_name(name: &str) -> Result<()> {
    let plain = !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain.then_some(()).with_context(|| format!("`{name}` is no name inside a folder"))
}

fn parse_forward(text: &str) -> Result<(u16, u16)> {
    let (here, there) = text.split_once(':').context("write it as HOSTPORT:METALPORT")?;
    Ok((here.parse()?, there.parse()?))
}

fn parse_variable(text: &str) -> Result<(String, OsString)> {
    let (name, value) = text.split_once('=').context("write it as K=V")?;
    let fine = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    fine.then(|| (name.to_string(), value.into())).with_context(|| format!("`{name}` is no variable name"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn job(words: &[&str]) -> Result<Job> {
        Ok(Line::try_parse_from([&["metal"], words].concat())?.options.job())
    }

    #[test]
    fn a_whole_line_is_understood() {
        let line = "--icount --cpu max --in a/b:c --in a/d --out x:y --disk e/F:f --debian --forward 80:8080 --env K=V=W -- ls -l --icount";
        let job = job(&line.split(' ').collect::<Vec<_>>()).unwrap();
        assert!(
            job.emulated_host.icount
                && job.emulated_host.cpu == Cpu::Max
                && job.emulated_host.processors == 2
        );
        assert_eq!(job.inputs, [("a/b".into(), "c".to_string()), ("a/d".into(), "d".to_string())]);
        assert_eq!(job.outputs, [("x".to_string(), PathBuf::from("y"))]);
        assert_eq!(job.disks, [("e/F".into(), "f".to_string())]);
        assert!(job.debian);
        assert_eq!(job.forwards, [(80, 8080)]);
        assert_eq!(job.environment, [("K".to_string(), OsString::from("V=W"))]);
        assert!(matches!(job.action, Action::Run(words) if words == ["ls", "-l", "--icount"]));
    }

    #[test]
    fn the_command_needs_no_dashes_before_it() {
        assert!(matches!(job(&["ls", "-l"]).unwrap().action, Action::Run(words) if words == ["ls", "-l"]));
        let shell = job(&["shell"]).unwrap();
        assert!(matches!(shell.action, Action::Shell) && shell.timeout.is_none());
        assert!(job(&[]).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            ["--in", "a:../b", "ls"],
            ["--out", "nowhere", "ls"],
            ["--out", "/etc:x", "ls"],
            ["--disk", "e/F", "ls"],
            ["--forward", "80", "ls"],
            ["--forward", "1:70000", "ls"],
            ["--env", "1A=b", "ls"],
            ["--smp", "0", "ls"],
        ] {
            assert!(job(&words).is_err(), "{words:?}");
        }
    }
}
