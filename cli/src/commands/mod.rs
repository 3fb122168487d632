//! The commands, one concept per file.

mod base;
mod change;
mod events;
mod get;
mod host;
mod image;
mod logs;
mod ps;
mod run;
mod tag;
mod token;
mod wait;

use clap::{CommandFactory as _, Subcommand};
use clap_complete::Shell;

use crate::connect::Client;
use crate::error::Failure;
use crate::options::Cli;
use crate::out::Out;
use crate::settings::Settings;

/// What every command has.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) out: Out,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Images: create, update, look at and delete them
    #[command(subcommand, visible_alias = "images")]
    Image(image::Image),
    /// Base images of the host
    #[command(subcommand)]
    Base(base::Base),
    /// Run a microVM of an image
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
    /// Make a token for requests to ports of a microVM
    Token(token::Token),
    /// Make a token for a shell in a microVM
    ShellToken(token::ShellToken),
    /// Tags of images
    #[command(subcommand)]
    Tag(tag::Tag),
    /// Show what apps and builds have written
    Logs(logs::Logs),
    /// List log groups
    LogGroups(logs::Groups),
    /// List the streams of a log group
    LogStreams(logs::Streams),
    /// Follow changes of state, of everything or of one image or microVM
    Events(events::Events),
    /// The host: its state, backups of its store
    Host(host::Host),
    /// Print a script that lets a shell complete this command's words
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Does what the command line says.
pub(crate) async fn execute(cli: Cli) -> Result<(), Failure> {
    let out = Out::new(&cli.global);
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "hearth", &mut script);
        return out.text(&String::from_utf8_lossy(&script));
    }
    // What is wrong with the words is told before anybody is asked.
    if let Command::Image(image) = &cli.command {
        image.check()?;
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
        Command::Suspend(change) => change.execute(context, change::To::Suspended).await,
        Command::Resume(change) => change.execute(context, change::To::Running).await,
        Command::Rm(change) => change.execute(context, change::To::Terminated).await,
        Command::Token(token) => token.execute(context).await,
        Command::ShellToken(token) => token.execute(context).await,
        Command::Tag(tag) => tag.execute(context).await,
        Command::Logs(logs) => logs.execute(context).await,
        Command::LogGroups(groups) => groups.execute(context).await,
        Command::LogStreams(streams) => streams.execute(context).await,
        Command::Events(events) => events.execute(context).await,
        Command::Host(host) => host.execute(context).await,
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
}
