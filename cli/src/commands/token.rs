//! `hearth token` and `hearth shell-token`.

use std::collections::BTreeMap;

use clap::Args;
use hearth_proto::microvms::v1::port_specification::Specification;
use hearth_proto::microvms::v1::{
    CreateMicrovmAuthTokenRequest, CreateMicrovmShellAuthTokenRequest, PortRange, PortSpecification, Unit,
};
use prost::{Message, Name};

use super::Context;
use crate::error::Failure;
use crate::out::printable;

/// Make a token for requests to ports of a microVM
///
/// Prints the header to send: curl -H "$(hearth token ID --port 8080)" https://ENDPOINT; with --quiet the token alone.
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// Id of the microVM, or its beginning
    id: String,
    /// A port or a range like 8000-8100 that may be used; may be repeated
    #[arg(long = "port", short, value_name = "PORT", value_parser = ports, required_unless_present = "all_ports")]
    ports: Vec<PortSpecification>,
    /// Every port may be used
    #[arg(long, conflicts_with = "ports")]
    all_ports: bool,
    #[command(flatten)]
    validity: Validity,
}

/// Make a token for a shell in a microVM
///
/// The microVM must have been run with --ingress SHELL_INGRESS. Prints the header to send; with --quiet the token alone.
#[derive(Debug, Args)]
pub(crate) struct ShellToken {
    /// Id of the microVM, or its beginning
    id: String,
    #[command(flatten)]
    validity: Validity,
}

#[derive(Debug, Args)]
struct Validity {
    /// For how many minutes it is good: 1 to 60
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(i32).range(1..=60))]
    minutes: i32,
}

fn ports(text: &str) -> Result<PortSpecification, String> {
    let port = |text: &str| {
        let port: u16 = text.parse().ok()?;
        (port > 0).then(|| i32::from(port))
    };
    let specification = match text.split_once('-') {
        None => port(text).map(Specification::Port),
        Some((start, end)) => match (port(start), port(end)) {
            (Some(start), Some(end)) if start <= end => {
                Some(Specification::Range(PortRange { start_port: Some(start), end_port: Some(end) }))
            }
            _ => None,
        },
    };
    let specification = specification.ok_or("write a port from 1 to 65535, or a range like 8000-8100")?;
    Ok(PortSpecification { specification: Some(specification) })
}

impl Token {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let id = client.microvm_id(&self.id).await?;
        let mut allowed_ports = self.ports;
        if self.all_ports {
            allowed_ports.push(PortSpecification { specification: Some(Specification::AllPorts(Unit {})) });
        }
        let request = CreateMicrovmAuthTokenRequest {
            microvm_identifier: Some(id.clone()),
            expiration_in_minutes: Some(self.validity.minutes),
            allowed_ports,
        };
        let mut microvms = client.microvms();
        let answer = microvms.create_microvm_auth_token(request);
        let answer = client.call(format!("make a token for {id}"), answer).await?;
        print(context, &answer, &answer.auth_token)
    }
}

impl ShellToken {
    pub(crate) async fn execute(self, context: &Context) -> Result<(), Failure> {
        let client = &context.client;
        let id = client.microvm_id(&self.id).await?;
        let request = CreateMicrovmShellAuthTokenRequest {
            microvm_identifier: Some(id.clone()),
            expiration_in_minutes: Some(self.validity.minutes),
        };
        let mut microvms = client.microvms();
        let answer = microvms.create_microvm_shell_auth_token(request);
        let answer = client.call(format!("make a shell token for {id}"), answer).await?;
        print(context, &answer, &answer.auth_token)
    }
}

fn print<M: Message + Name>(
    context: &Context,
    answer: &M,
    headers: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let out = context.out;
    if out.json {
        out.json(answer)
    } else if out.quiet {
        out.lines(headers.values().map(|token| printable(token)))
    } else {
        out.lines(headers.iter().map(|(name, token)| printable(&format!("{name}: {token}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_or_ranges() {
        let parsed = |text: &str| ports(text).map(|ports| ports.specification.unwrap());
        assert_eq!(parsed("80"), Ok(Specification::Port(80)));
        let range = PortRange { start_port: Some(1), end_port: Some(65535) };
        assert_eq!(parsed("1-65535"), Ok(Specification::Range(range)));
        for wrong in ["0", "65536", "2-1", "-1", "a", "1-", ""] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
