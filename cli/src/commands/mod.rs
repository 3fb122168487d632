//! The commands, one concept per file.

mod base;
mod ca;
mod change;
mod curl;
mod events;
mod get;
mod host;
mod image;
mod logs;
mod open;
mod ps;
mod run;
mod shell;
mod tag;
mod token;
mod wait;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::connect::Client;
use crate::error::Failure;
use crate::options::Global;
use crate::out::Out;
use crate::settings::Settings;

/// The common parameters of all commands.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) out: Out,
}

/// The commands. Where a variant has no comment, the type that it contains documents the command, in several lines.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Images: create, update, look at and delete them
    #[command(subcommand, visible_alias = "images")]
    Image(image::Image),
    /// Base images of the host
    #[command(subcommand)]
    Base(base::Base),
    Run(Box<run::Run>),
    /// List microVMs
    #[command(visible_alias = "ls")]
    Ps(ps::Ps),
    /// Show microVMs with everything about them
    Get(get::Get),
    /// Save microVMs with memory and disk, and free their memory
    Suspend(change::Change),
    /// Let suspended microVMs go on
    Resume(change::Change),
    /// Terminate microVMs
    #[command(visible_alias = "terminate")]
    Rm(change::Change),
    Shell(shell::Shell),
    Open(open::Open),
    Curl(curl::Curl),
    Token(token::Token),
    ShellToken(token::ShellToken),
    /// Tags of images
    #[command(subcommand)]
    Tag(tag::Tag),
    Logs(logs::Logs),
    /// List log groups
    LogGroups(logs::Groups),
    /// List the streams of a log group
    LogStreams(logs::Streams),
    /// Follow changes of state, of everything or of one image or microVM
    Events(events::Events),
    /// The host: its state, backups of its store
    Host(host::Host),
    Ca(ca::Ca),
    /// Print a script that lets a shell complete this command's words
    Completions {
        /// The shell
        shell: Shell,
    },
}

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

/// Executes the command.
pub(crate) async fn execute(cli: Cli) -> Result<(), Failure> {
    let out = Out::new(&cli.global);
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "hearth", &mut script);
        return out.text(&String::from_utf8_lossy(&script));
    }
    // Mistakes in the command line are reported before any request.
    match &cli.command {
        Command::Image(image) => image.check()?,
        Command::Curl(curl) => drop(curl.target()?),
        Command::Ca(ca) if ca.needs_no_daemon() => return ca::uninstall(out),
        _ => {}
    }
    let settings = Settings::find(&cli.global)?;
    let context = Context { client: Client::connect(&settings).await?, out };
    let context = &context;
    match cli.command {
        Command::Image(image) => image.execute(context).await,
        Command::Base(base) => base.execute(context).await,
        Command::Run(run) => run.execute(context).await,
        Command::Ps(ps) => ps.execute(context).await,
        Command::Get(get) => get.execute(context).await,
        Command::Suspend(change) => change.execute(context, change::TargetState::Suspended).await,
        Command::Resume(change) => change.execute(context, change::TargetState::Running).await,
        Command::Rm(change) => change.execute(context, change::TargetState::Terminated).await,
        Command::Shell(shell) => shell.execute(context).await,
        Command::Open(open) => open.execute(context).await,
        Command::Curl(curl) => curl.execute(context).await,
        Command::Token(token) => token.execute(context).await,
        Command::ShellToken(token) => token.execute(context).await,
        Command::Tag(tag) => tag.execute(context).await,
        Command::Logs(logs) => logs.execute(context).await,
        Command::LogGroups(groups) => groups.execute(context).await,
        Command::LogStreams(streams) => streams.execute(context).await,
        Command::Events(events) => events.execute(context).await,
        Command::Host(host) => host.execute(context).await,
        Command::Ca(ca) => ca.execute(context).await,
        Command::Completions { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_that_need_it_are_explained_at_length() {
        let cli = Cli::command();
        for name in ["run", "shell", "open", "curl", "token", "shell-token", "logs", "ca"] {
            let command = cli.find_subcommand(name).unwrap();
            assert!(command.get_about().is_some() && command.get_long_about().is_some(), "{name}");
        }
        assert!(cli.get_subcommands().all(|command| command.get_about().is_some()));
        let image = cli.find_subcommand("image").unwrap();
        assert!(image.get_subcommands().all(|command| command.get_about().is_some()));
    }
}
