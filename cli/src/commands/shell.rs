//! `hearth shell`: a shell, or a command, in a microVM.

use clap::Args;

use super::Context;
use crate::endpoint::{Dialer, EndpointAddress, shell_token};
use crate::error::Failure;
use crate::interrupt::terminated_by;
use crate::shell::{self, SessionEnd, Streams};

/// Validity of the token in minutes; the session may last longer.
const MINUTES: i32 = 5;

/// Open a shell in a microVM
///
/// The microVM must have been run with --ingress SHELL_INGRESS. `hearth shell ID -- ls -l` runs a command instead. The
/// exit status is the shell's or the command's.
///
/// Where stdin and stdout are a terminal, so it is in the microVM, and ~. at the beginning of a line ends a session that
/// hangs, ~~ types a ~. Otherwise bytes pass as they are: `hearth shell ID -- tar c /srv > srv.tar`. Stderr is apart, and
/// the end of the input is the command's. -t and -T choose.
#[derive(Debug, Args)]
pub(crate) struct Shell {
    /// Id of the microVM, or its beginning
    id: String,
    /// A terminal in the microVM, also where there is none here: input then ends with Ctrl-D
    #[arg(short = 't', long, overrides_with = "no_tty")]
    tty: bool,
    /// No terminal in the microVM: stdin, stdout and stderr are pipes
    #[arg(short = 'T', long, overrides_with = "tty")]
    no_tty: bool,
    /// A command, and its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

impl Shell {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let microvm = context.microvm(&client.microvm_id(&self.id).await?).await?;
        let id = &microvm.microvm_id;
        let address = EndpointAddress::of(client, &microvm).await?;
        let token = shell_token(client, id, MINUTES).await?;
        let streams = match (self.tty, self.no_tty) {
            (true, _) => Streams::Terminal,
            (_, true) => Streams::Pipes,
            _ => Streams::as_here(),
        };
        let socket = shell::connect(&Dialer::new(address)?, id, &token, streams).await?;
        match shell::run(socket, &self.command, streams).await? {
            SessionEnd::Exit(0) | SessionEnd::Closed => Ok(()),
            SessionEnd::Exit(status) => Err(Failure::Ended(u8::try_from(status).unwrap_or(u8::MAX))),
            SessionEnd::Signal(signal) => Err(terminated_by(signal.as_raw_value())),
            SessionEnd::Disconnected => {
                Err(Failure::Interrupted(format!("disconnected from {id}; its shell is hung up")))
            }
            SessionEnd::Broken(why) => Err(Failure::NoConnection(format!(
                "the connection to the shell broke: {why}; `hearth get {id}` says the microVM's state"
            ))),
            SessionEnd::Output(error) => Err(error.into()),
            SessionEnd::Input(error) => Err(Failure::failed(format!(
                "cannot read the input: {error}; the command was ended in the middle of it"
            ))),
            SessionEnd::NoPipes => Err(Failure::failed(
                "the host's daemon is older than this client and has no pipes for commands, only terminals, which change bytes: \
                 upgrade hearthd, or use -t for text",
            )),
        }
    }
}
