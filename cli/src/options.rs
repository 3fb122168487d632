//! Global options, which every command has.

use std::path::PathBuf;

use clap::Args;

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
