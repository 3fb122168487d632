//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, Parser};

use crate::commands::Command;

const AFTER: &str = "\
Exit status: 0 done, 1 failed, 2 wrong usage, 3 no connection to the daemon or an endpoint, 130 interrupted; that of
what was run after curl and shell.
Configuration: ~/.config/hearth/config.toml, [profiles.NAME] with endpoint, ca, certificate, key, access_key_id,
secret_access_key, timeout_seconds; options and environment come before it. Access keys are read from
HEARTH_ACCESS_KEY_ID and HEARTH_SECRET_ACCESS_KEY.";

/// Runs microVMs on a Hearth host
#[derive(Debug, Parser)]
#[command(name = "hearth", version, after_help = AFTER, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print JSON with the member names of the AWS API: one value, or one per line where events follow
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print ids and names only
    #[arg(long, short, global = true, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Where hearthd listens: unix:/PATH, http://LOOPBACK:PORT or https://HOST:PORT
    #[arg(long, global = true, value_name = "URI", env = "HEARTH_ENDPOINT")]
    pub(crate) endpoint: Option<String>,
    /// PEM file of the authority that signed the daemon's certificate; the system's unless given
    #[arg(long, global = true, value_name = "FILE", env = "HEARTH_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM file of the client's own certificate
    #[arg(long, global = true, value_name = "FILE", env = "HEARTH_CERT")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM file of the key of the client's own certificate
    #[arg(long, global = true, value_name = "FILE", env = "HEARTH_KEY")]
    pub(crate) key: Option<PathBuf>,
    /// Profile of the configuration file
    #[arg(long, global = true, value_name = "NAME", env = "HEARTH_PROFILE")]
    pub(crate) profile: Option<String>,
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", env = "HEARTH_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// How long the daemon may take for an answer; 60 unless given
    #[arg(long, global = true, value_name = "SECONDS", env = "HEARTH_TIMEOUT", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: Option<u64>,
}
