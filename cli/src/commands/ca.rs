//! `hearth ca`: the host's own certificate authority.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Context;
use crate::endpoint::endpoints;
use crate::error::Failure;
use crate::out::Out;
use crate::trust::{Changed, TrustStore};

/// Print or install the host's certificate authority
///
/// Certificates of endpoints are signed by an authority of the host's own, unless hearthd is configured otherwise.
/// Without a further word its certificate is printed, for clients that take a file: curl --cacert, SSL_CERT_FILE,
/// NODE_EXTRA_CA_CERTS. Only `hearth curl`, `hearth open` and `hearth shell` know it by themselves.
#[derive(Debug, Args)]
pub(crate) struct Ca {
    #[command(subcommand)]
    command: Option<CaCommand>,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make this machine trust it; needs root
    ///
    /// An authority is taken only if it is for the domain of the host's endpoints and nothing else. A person with its key, which is on the host,
    /// can then pose as any server below that domain to this machine's programs. Firefox and Chromium have stores of their own.
    Install,
    /// Make this machine trust it no more; needs root, but no daemon
    Uninstall,
}

impl Ca {
    /// Whether the command concerns only this machine.
    pub(super) fn needs_no_daemon(&self) -> bool {
        matches!(self.command, Some(CaCommand::Uninstall))
    }

    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let status = endpoints(context.client.host_status().await?.endpoint.as_ref())?;
        let pem = status.certificate_authority_pem.trim();
        if pem.is_empty() {
            let text = "the host has no authority of its own: certificates of its endpoints come from elsewhere, and are \
                 either trusted already or signed by an authority that its operator knows";
            return Err(Failure::failed(text));
        }
        let out = context.out;
        match self.command {
            Some(CaCommand::Install) => {
                let changed = TrustStore::find()?.install(&format!("{pem}\n"), &status.domain)?;
                print_change(out, &changed, Some(&status.domain))
            }
            _ if out.json => out.json_value(&json!({ "certificateAuthorityPem": format!("{pem}\n") })),
            _ => out.line(pem),
        }
    }
}

/// Removes the authority from this machine's store.
pub(super) fn uninstall(out: Out) -> Result<(), Failure> {
    print_change(out, &TrustStore::find()?.uninstall()?, None)
}

/// Says what was changed. `domain` is what the authority that was installed can sign for.
fn print_change(out: Out, changed: &Changed, domain: Option<&str>) -> Result<(), Failure> {
    let file = changed.file.display();
    if out.json {
        return out
            .json_value(&json!({ "file": file.to_string(), "program": changed.program, "domain": domain }));
    }
    if out.quiet {
        return out.line(&file.to_string());
    }
    match (&changed.program, changed.installed) {
        (None, _) => out.line(&format!("{file} does not exist: there was nothing to do")),
        (Some(program), true) => out.line(&format!(
            "wrote {file} and ran {program}: this machine trusts the host's authority for names below {}, and for nothing else; undo it \
             with `hearth ca uninstall`",
            domain.unwrap_or_default()
        )),
        (Some(program), false) => {
            out.line(&format!("removed {file} and ran {program}: this machine trusts the authority no more"))
        }
    }
}
