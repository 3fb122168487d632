//! `hearth shell`: a shell, or a command, in a microVM.

use clap::Args;

use super::Context;
use crate::endpoint::{Dialer, EndpointAddress, shell_token};
use crate::error::Failure;
use crate::interrupt::terminated_by;
use crate::shell::{self, SessionEnd};

/// Validity of the token in minutes; the session may last longer.
const MINUTES: i32 = 5;

/// Open a shell in a microVM
///
/// The microVM must have been run with --ingress SHELL_INGRESS. `hearth shell ID -- ls -l` runs a command instead. The
/// exit status is the shell's or the command's. ~. at the beginning of a line ends a session that hangs, ~~ types a ~.
/// Input that is no terminal ends with Ctrl-D.
#[derive(Debug, Args)]
pub(crate) struct Shell {
    /// Id of the microVM, or its beginning
    id: String,
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
        let socket = shell::connect(&Dialer::new(address)?, id, &token).await?;
        match shell::run(socket, &self.command).await? {
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
        }
    }
}
