//! `hearth open`: a microVM in the browser.

use clap::Args;
use serde_json::json;

use super::Context;
use crate::endpoint::{Dialer, EndpointAddress, Target, Tokens};
use crate::error::Failure;
use crate::interrupt::Interrupt;
use crate::relay::{self, HostName, Relay};

/// Open a microVM in the browser
///
/// Browsers cannot send tokens by themselves. A relay on 127.0.0.1 does it for them until Ctrl-C: it makes tokens for
/// that port, trusts the host's authority, and passes on requests, streams and WebSockets. It answers only browsers
/// that were let in with the URL that is printed, whose name below localhost is new each time, so that the app gets no
/// cookies of other pages of this machine.
#[derive(Debug, Args)]
pub(crate) struct Open {
    /// Id of the microVM, or its beginning; 8080 unless another port is given
    #[arg(value_name = "ID[:PORT][/PATH]")]
    target: Target,
    /// Only print the URL
    #[arg(long)]
    no_browser: bool,
    /// Use 127.0.0.1 in the URL, for browsers that do not resolve names below localhost; the app gets cookies of other local pages then
    #[arg(long)]
    by_address: bool,
}

impl Open {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let mut interrupt = Interrupt::listen()?;
        let (client, target) = (&context.client, &self.target);
        let microvm = context.microvm(&client.microvm_id(&target.id).await?).await?;
        let address = EndpointAddress::of(client, &microvm).await?;
        let (endpoint, port) = (address.url(&target.path), target.port);
        let tokens = Tokens::new(client.clone(), microvm.microvm_id, port);
        // A missing permission is reported here, not in the browser.
        tokens.get().await?;
        let name = if self.by_address { HostName::Address } else { HostName::Own };
        let relay = Relay::bind(Dialer::new(address)?, tokens, name).await?;
        let url = relay.url(&target.path);
        let out = context.out;
        if out.json {
            out.json_value(&json!({ "url": url, "endpoint": endpoint, "port": port }))?;
        } else if out.quiet {
            out.line(&url)?;
        } else {
            out.line(&url)?;
            eprintln!("relays to port {port} of {endpoint} until Ctrl-C");
        }
        if !self.no_browser {
            relay::open(&relay.url_for_once(&target.path));
        }
        tokio::select! {
            never = relay.serve() => match never {},
            () = interrupt.wait() => Ok(()),
        }
    }
}
