//! Debian packages that this machine needs: missing ones are found, announced, and installed with one apt call.
//!
//! No package is ever removed for them. Where the release's own version conflicts with installed packages, the same
//! package is tried from the release's backports, through a separate sources file.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, remove_folder};
use crate::command::{self, find_program};
use crate::lock::Lock;
use crate::mirrors;
use crate::progress;

/// How long to wait for other programs that lock apt's lists.
const OTHERS: Duration = Duration::from_secs(600);

/// A requirement of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// The Debian package, with `:arm64` where the foreign architecture's is meant.
    pub(crate) package: &'static str,
    /// A program of the package: if it is on the search path, the need is met, even without the package.
    pub(crate) program: Option<&'static str>,
    /// Purpose of the package.
    pub(crate) why: &'static str,
}

/// A need that a program meets.
pub(crate) const fn program(package: &'static str, program: &'static str, why: &'static str) -> Need {
    Need { package, program: Some(program), why }
}

/// A need that only the package itself meets.
pub(crate) const fn library(package: &'static str, why: &'static str) -> Need {
    Need { package, program: None, why }
}

/// Installs missing packages, or fails with instructions if that is not possible.
pub(crate) fn ensure(cache: &Cache, needs: &[Need]) -> Result<()> {
    if missing(needs).is_empty() {
        return Ok(());
    }
    let _lock = Lock::of_machine("apt")?;
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    names.sort_unstable();
    names.dedup();
    for need in &missing {
        progress::note(&format!("   to install: {} ({})", need.package, need.why));
    }
    if find_program("apt-get").is_none() {
        bail!("this machine has no apt; install the equivalents of: {}", names.join(" "));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("packages are missing and installing them needs root; run:\n\n    {}\n", by_hand(&names));
    }
    let added = add_foreign_architecture(&names)?;
    if added || !all_known(&names) {
        update(&[])?;
    }
    if install(&names, &[]).is_err() && (update(&[]).is_err() || install(&names, &[]).is_err()) {
        install_with_backports(cache, &names).with_context(|| {
            format!("packages could not be installed; by hand:\n\n    {}\n", by_hand(&names))
        })?;
    }
    let still = self::missing(needs);
    if let Some(need) = still.first() {
        bail!("{} is still missing after its installation", need.package);
    }
    Ok(())
}

/// Whether any of these has to be installed.
pub(crate) fn any_missing(needs: &[Need]) -> bool {
    !missing(needs).is_empty()
}

/// The needs that are not met.
fn missing(needs: &[Need]) -> Vec<Need> {
    let unmet: Vec<Need> = needs
        .iter()
        .filter(|need| need.program.is_none_or(|name| find_program(name).is_none()))
        .copied()
        .collect();
    if unmet.is_empty() {
        return unmet;
    }
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${Architecture} ${db:Status-Status}\n"]);
    query.args(unmet.iter().map(|need| need.package));
    // The exit status only reports that some packages are unknown; the lines list those that are installed.
    let output = query.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let installed = parse_installed(&output.unwrap_or_default());
    unmet.into_iter().filter(|need| !installed.contains(need.package)).collect()
}

/// The installed packages in dpkg-query's lines, once by name and once as `name:architecture`.
fn parse_installed(lines: &str) -> HashSet<String> {
    let mut names = HashSet::new();
    for line in lines.lines() {
        let mut fields = line.split(' ');
        if let (Some(name), Some(architecture), Some("installed")) =
            (fields.next(), fields.next(), fields.next())
        {
            // A package of a foreign architecture does not meet a need for this machine's own.
            if architecture == own_architecture() || architecture == "all" {
                names.insert(name.to_string());
            }
            names.insert(format!("{name}:{architecture}"));
        }
    }
    names
}

/// Debian's name of this machine's architecture.
pub(crate) fn own_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn by_hand(names: &[&str]) -> String {
    let foreign = names.iter().any(|name| name.ends_with(":arm64"));
    let first = if foreign { "dpkg --add-architecture arm64 && " } else { "" };
    format!(
        "{first}apt-get update && apt-get install --no-remove --no-install-recommends {}",
        names.join(" ")
    )
}

fn add_foreign_architecture(names: &[&str]) -> Result<bool> {
    if !names.iter().any(|name| name.ends_with(":arm64")) || own_architecture() == "arm64" {
        return Ok(false);
    }
    let present = command::capture(Command::new("dpkg").arg("--print-foreign-architectures"))?;
    if present.lines().any(|line| line == "arm64") {
        return Ok(false);
    }
    progress::note("   adding the architecture arm64 to dpkg");
    command::run(Command::new("dpkg").args(["--add-architecture", "arm64"]))?;
    Ok(true)
}

/// Whether apt's lists contain all of these packages.
fn all_known(names: &[&str]) -> bool {
    command::capture(Command::new("apt-cache").env("LC_ALL", "C.UTF-8").arg("policy").args(names))
        .is_ok_and(|text| candidates(&text) >= names.len())
}

/// The number of packages in apt's answer that can be installed.
fn candidates(policy: &str) -> usize {
    let lines = policy.lines().filter_map(|line| line.trim_start().strip_prefix("Candidate: "));
    lines.filter(|version| *version != "(none)").count()
}

/// Updates apt's lists. The caller holds the machine's lock `apt`, so no other xtask installs packages meanwhile. Another
/// program may be updating the lists – the machine's own daily update, say, which runs when it has just started: apt waits for
/// others that install packages, but fails at once if others update lists.
fn update(options: &[String]) -> Result<()> {
    progress::note("   apt-get update");
    let start = Instant::now();
    let mut said = false;
    loop {
        let mut update = Command::new("apt-get");
        update.env("LC_ALL", "C.UTF-8").args(["-qq", "-o", "DPkg::Lock::Timeout=600"]).args(options);
        match command::capture(update.arg("update")) {
            Err(error) if is_locked(&error.to_string()) && start.elapsed() < OTHERS => {
                if !said {
                    progress::note("   waiting for another program that reads apt's lists");
                    said = true;
                }
                thread::sleep(Duration::from_secs(1));
            }
            result => return result.map(drop),
        }
    }
}

/// Whether apt failed because another program holds one of its locks.
fn is_locked(text: &str) -> bool {
    text.contains("Could not get lock") || text.contains("Unable to lock directory")
}

fn install(names: &[&str], options: &[String]) -> Result<()> {
    progress::note(&format!("   apt-get install {}", names.join(" ")));
    command::run(apt_install(names, options).stdout(std::io::stderr()))
}

fn apt_install(names: &[&str], options: &[String]) -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qq", "-y", "-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Use-Pty=0"])
        .args(options)
        .args(["install", "--no-remove", "--no-install-recommends"])
        .args(names)
        .stdin(std::process::Stdio::null());
    apt
}

/// Whether apt could install these packages.
fn fits(names: &[&str]) -> bool {
    command::capture(&mut apt_install(names, &["--simulate".to_owned()])).is_ok()
}

/// Installs from the release's backports where the release's own versions conflict with what is installed.
fn install_with_backports(cache: &Cache, names: &[&str]) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = codename(&release).context("/etc/os-release names no Debian release")?;
    progress::note(&format!("   the release's own versions do not fit; trying {codename}-backports"));
    let line = mirrors::source_line(&mirrors::mirrors()?.0, &format!("{codename}-backports"));
    let folder = sources_with(cache, &line)?;
    let sources = vec!["-o".to_string(), format!("Dir::Etc::sourceparts={}", folder.display())];
    update(&sources)?;
    let mut backports = sources;
    backports.extend(["-t".to_string(), format!("{codename}-backports")]);
    // Packages that can be installed from the release itself are installed from there.
    let (of_release, others): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(|name| fits(&[*name]));
    if install_some(&of_release, &[]).is_ok() && install_some(&others, &backports).is_ok() {
        return Ok(());
    }
    // Each package can be installed alone but not all together, or the failure is not due to versions.
    for name in names {
        if install(&[name], &[]).is_err() {
            install(&[name], &backports)?;
        }
    }
    Ok(())
}

fn install_some(names: &[&str], options: &[String]) -> Result<()> {
    if names.is_empty() { Ok(()) } else { install(names, options) }
}

/// A copy of the machine's folder of sources with an additional one. The whole set is needed, because apt drops the lists of
/// sources that an update does not include.
fn sources_with(cache: &Cache, line: &str) -> Result<PathBuf> {
    let folder = cache.path("apt/sources.list.d");
    remove_folder(&folder)?;
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        symlink(entry.path(), folder.join(entry.file_name()))?;
    }
    fs::write(folder.join("hearth-backports.list"), line)?;
    Ok(folder)
}

fn codename(os_release: &str) -> Option<&str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"'))
}

/// Updates apt's lists, for callers outside this module.
pub(crate) fn refresh_lists() -> Result<()> {
    let _lock = Lock::of_machine("apt")?;
    update(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_of_the_right_architecture_count() {
        let own = own_architecture();
        let lines = format!(
            "bc {own} installed\nflex {own} config-files\nrust arm64 installed\nkeys all installed\n"
        );
        let names = parse_installed(&lines);
        assert!(names.contains("bc") && names.contains("keys") && names.contains("rust:arm64"));
        assert!(!names.contains("flex"));
        assert_eq!(names.contains("rust"), own == "arm64");
    }

    #[test]
    fn a_program_on_the_path_meets_a_need() {
        assert!(missing(&[program("no-such-package-at-all", "sh", "test")]).is_empty());
        assert_eq!(missing(&[library("no-such-package-at-all", "test")]).len(), 1);
    }

    #[test]
    fn a_lock_of_apt_is_told_from_other_failures() {
        let locked = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 4711 (apt-get)\n\
                      E: Unable to lock directory /var/lib/apt/lists/";
        assert!(is_locked(locked));
        assert!(!is_locked("E: Failed to fetch http://mirror.test/x  Could not resolve 'mirror.test'"));
    }

    #[test]
    fn packages_without_a_candidate_are_not_known() {
        let text = "bc:\n  Installed: (none)\n  Candidate: 1.07\n  Version table:\nx:\n  Candidate: (none)\n";
        assert_eq!(candidates(text), 1);
    }

    #[test]
    fn the_release_is_read_from_os_release() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("ID=arch\n"), None);
    }

    #[test]
    fn the_command_to_copy_adds_the_architecture_only_when_needed() {
        assert!(by_hand(&["a:arm64"]).starts_with("dpkg --add-architecture arm64"));
        assert!(by_hand(&["a"]).starts_with("apt-get update"));
    }
}
