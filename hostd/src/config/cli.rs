//! The commands `hearthd config` and `hearthd init`.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::check::is_open;
use super::file::line_of;
use super::init::Plan;
use super::{Config, DEFAULT_FILE};

use crate::setting::Problem;

/// Look at the configuration
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with a configuration, and where; also whether what it names is there
    Check {
        /// The file
        #[arg(default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Print what a configuration comes to: every key with its value, secrets hidden
    Show {
        /// The file; without one, the defaults are shown if there is none
        file: Option<PathBuf>,
    },
}

/// Write a first configuration: with comments, and with certificates and an access key for requests over TCP
#[derive(Debug, Args)]
pub struct Init {
    /// Where it goes; certificates go beside it
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Take requests over TCP there, like 0.0.0.0:7443
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// A name or address under which clients know this host; may be repeated. localhost is always one
    #[arg(long = "name", value_name = "NAME", requires = "listen")]
    names: Vec<String>,
    /// The account of all who come: 12 digits
    #[arg(long, value_name = "ACCOUNT", default_value = "000000000000")]
    account: String,
}

impl ConfigCommand {
    /// Executes the command; returns the text for standard output.
    ///
    /// # Errors
    /// The problems, one per line.
    pub fn execute(&self) -> anyhow::Result<String> {
        match self {
            Self::Check { file } => check(file),
            Self::Show { file } => {
                let default = Path::new(DEFAULT_FILE);
                let config = match file {
                    Some(file) => Config::read(file)?,
                    None if default.exists() => Config::read(default)?,
                    None => Config::default(),
                };
                toml::to_string_pretty(&config).context("cannot write the configuration as TOML")
            }
        }
    }
}

fn check(file: &Path) -> anyhow::Result<String> {
    let config = Config::read(file)?;
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut problems: Vec<_> = config.problems().into_iter().chain(config.missing()).collect();
    if config.access.keys.iter().any(|key| key.secret.is_some()) && is_open(file) {
        let why = format!("they are secret and others may read this file: chmod 600 {}", file.display());
        problems.push(Problem::new("access.keys", why));
    }
    if problems.is_empty() {
        return Ok(format!("{} is good\n", file.display()));
    }
    let mut lines = String::new();
    for problem in &problems {
        let line = line_of(&text, &problem.key).map(|line| format!(", line {line}")).unwrap_or_default();
        let _ = write!(lines, "\n{}{line}: {problem}", file.display());
    }
    bail!("{} is wrong in {} places:{lines}", file.display(), problems.len());
}

impl Init {
    /// Executes the command; returns the text for standard output.
    ///
    /// # Errors
    /// A file that cannot be written, or exists already.
    pub fn execute(&self) -> anyhow::Result<String> {
        let plan = Plan {
            file: self.config.clone(),
            listen: self.listen,
            names: self.names.clone(),
            account: self.account.clone(),
        };
        let made = plan.write()?;
        let mut text = String::new();
        for file in &made.files {
            let _ = writeln!(text, "wrote {}", file.display());
        }
        let _ = write!(
            text,
            "\nLook at it, then start the daemon:\n  hearthd config check {}\n  systemctl enable --now hearthd\n\nThen:\n",
            self.config.display()
        );
        for line in &made.connect {
            let _ = writeln!(text, "  {line}");
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    enum Line {
        #[command(subcommand)]
        Config(ConfigCommand),
        Init(Init),
    }

    fn execute(words: &str) -> anyhow::Result<String> {
        match Line::try_parse_from(format!("hearthd {words}").split_whitespace())? {
            Line::Config(command) => command.execute(),
            Line::Init(init) => init.execute(),
        }
    }

    #[test]
    fn what_init_writes_is_shown_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hearthd.toml");
        let told =
            execute(&format!("init --config {} --listen 0.0.0.0:7443 --name a.example", file.display()))
                .unwrap();
        let secret = told.split("HEARTH_SECRET_ACCESS_KEY=").nth(1).unwrap().lines().next().unwrap();
        let shown = execute(&format!("config show {}", file.display())).unwrap();
        assert!(shown.contains("address = \"0.0.0.0:7443\"") && shown.contains("mtu = 1500"), "{shown}");
        assert!(!shown.contains(secret) && shown.contains("***"));
        assert!(execute("init --name a.example").is_err(), "names are for certificates");
    }

    #[test]
    fn a_check_tells_every_problem_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hearthd.toml");
        let text = format!(
            "region = \"EU\"\n[listen]\naddress = \"0.0.0.0:7443\"\n[[access.keys]]\n\
             id = \"HKa\"\nsecret = \"01234567890123456789\"\n[paths]\nvmm = \"/bin/sh\"\n\
             catalogue = {:?}\n",
            folder.path()
        );
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let told = execute(&format!("config check {}", file.display())).unwrap_err().to_string();
        let begin = file.display().to_string();
        let lines: Vec<_> = told.lines().map(|line| line.strip_prefix(&begin).unwrap_or(line)).collect();
        assert_eq!(lines[0], " is wrong in 3 places:");
        assert!(lines[1].starts_with(", line 1: region: "), "{told}");
        assert!(
            lines[2].starts_with(", line 3: listen.address is 0.0.0.0:7443, which is not loopback"),
            "{told}"
        );
        assert!(lines[3].starts_with(", line 4: access.keys: "), "{told}");
        let good = format!("[paths]\nvmm = \"/bin/sh\"\ncatalogue = {:?}\n", folder.path());
        fs::write(&file, good).unwrap();
        assert!(execute(&format!("config check {}", file.display())).unwrap().ends_with(" is good\n"));
    }
}
