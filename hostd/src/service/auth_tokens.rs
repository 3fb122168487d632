//! CreateMicrovmAuthToken, CreateMicrovmShellAuthToken.

use std::collections::BTreeMap;

use hearth_model::connector::Connector;
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::MicrovmRecord;
use proto::port_specification::Specification;

use super::Service;
use super::error::{MicrovmError, ServiceError};
use super::pipeline::{Admitted, Handler, Permission, Target};
use crate::access::Caller;
use crate::tokens::{Grant, HEADER, Kind, TokenError};

/// What a token is for.
pub(crate) struct Wanted {
    microvm: MicrovmRecord,
    /// Lifetime of the token.
    minutes: u32,
    /// Sorted ranges of ports, first and last; none for shells.
    ports: Vec<(u16, u16)>,
}

impl Target for Wanted {
    fn permission(&self) -> Permission<'_> {
        self.microvm.permission()
    }
}

/// Returns a token for ports of a microVM.
impl Handler for proto::CreateMicrovmAuthTokenRequest {
    type Response = proto::CreateMicrovmAuthTokenResponse;
    type Target = Wanted;

    fn target(&self, service: &Service, caller: &Caller) -> Result<Wanted, ServiceError> {
        let minutes = minutes(service, self.expiration_in_minutes)?;
        let ports = ports(&self.allowed_ports)?;
        Ok(Wanted { microvm: service.microvm(caller, self.microvm_identifier.as_deref())?, minutes, ports })
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let connectors = live_connectors(&call.target.microvm)?;
        if !connectors.iter().any(|open| matches!(open, Connector::HttpIngress | Connector::AllIngress)) {
            return Err(MicrovmError::HttpIngressNeeded.into());
        }
        let auth_token = token(call.service, &call.target, Kind::Http, None)?;
        Ok(proto::CreateMicrovmAuthTokenResponse { auth_token })
    }
}

/// Returns a token for a shell in a microVM.
impl Handler for proto::CreateMicrovmShellAuthTokenRequest {
    type Response = proto::CreateMicrovmShellAuthTokenResponse;
    type Target = Wanted;

    fn target(&self, service: &Service, caller: &Caller) -> Result<Wanted, ServiceError> {
        let minutes = minutes(service, self.expiration_in_minutes)?;
        let microvm = service.microvm(caller, self.microvm_identifier.as_deref())?;
        Ok(Wanted { microvm, minutes, ports: Vec::new() })
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let connectors = live_connectors(&call.target.microvm)?;
        if connectors.contains(&Connector::AllIngress) && connectors.len() > 1 {
            return Err(MicrovmError::AllIngressCombined.into());
        }
        if !connectors.iter().any(|open| matches!(open, Connector::ShellIngress | Connector::AllIngress)) {
            return Err(MicrovmError::ShellIngressNeeded.into());
        }
        let auth_token = token(call.service, &call.target, Kind::Shell, Some(&call.caller.principal))?;
        Ok(proto::CreateMicrovmShellAuthTokenResponse { auth_token })
    }
}

fn minutes(service: &Service, minutes: Option<i32>) -> Result<u32, MicrovmError> {
    let minutes = minutes.unwrap_or_default();
    let max = service.config().max_token_minutes;
    if minutes > max {
        return Err(MicrovmError::ExpirationTooLong { minutes, max });
    }
    Ok(u32::try_from(minutes).unwrap_or_default())
}

/// A token; `maker` is who makes it, where the audit log will need it.
fn token(
    service: &Service,
    wanted: &Wanted,
    kind: Kind,
    maker: Option<&str>,
) -> Result<BTreeMap<String, String>, ServiceError> {
    let microvm = wanted.microvm.microvm.clone().unwrap_or_default();
    let (microvm_id, endpoint) = (microvm.microvm_id, microvm.endpoint);
    let (ports, minutes) = (wanted.ports.clone(), wanted.minutes);
    let maker = maker.map(str::to_owned);
    let token = service.parts().tokens.mint(&Grant { microvm_id, endpoint, kind, ports, minutes, maker });
    let token = token.map_err(|error: TokenError| ServiceError::internal(error.to_string()))?;
    Ok([(HEADER.to_owned(), token)].into())
}

/// The ingress connectors of a microVM that has not terminated.
fn live_connectors(record: &MicrovmRecord) -> Result<Vec<Connector>, MicrovmError> {
    use proto::MicrovmState as State;
    let microvm = record.microvm.clone().unwrap_or_default();
    if matches!(microvm.state(), State::Terminating | State::Terminated) {
        return Err(MicrovmError::Terminated(microvm.microvm_id));
    }
    Ok(microvm.ingress_network_connectors.iter().filter_map(|arn| Connector::of_arn(arn)).collect())
}

/// The allowed ports as sorted ranges that neither overlap nor touch.
fn ports(specifications: &[proto::PortSpecification]) -> Result<Vec<(u16, u16)>, MicrovmError> {
    let mut ranges = Vec::with_capacity(specifications.len());
    for specification in specifications {
        let (start, end) = match &specification.specification {
            Some(Specification::Port(port)) => (*port, *port),
            Some(Specification::Range(range)) => {
                (range.start_port.unwrap_or_default(), range.end_port.unwrap_or_default())
            }
            Some(Specification::AllPorts(_)) => (1, i32::from(u16::MAX)),
            None => continue, // the constraints have refused such a request
        };
        match (u16::try_from(start), u16::try_from(end)) {
            (Ok(first), Ok(last)) if first <= last => ranges.push((first, last)),
            _ => return Err(MicrovmError::PortRange { start, end }),
        }
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: i32) -> proto::PortSpecification {
        proto::PortSpecification { specification: Some(Specification::Port(port)) }
    }

    fn range(start: i32, end: i32) -> proto::PortSpecification {
        let range = proto::PortRange { start_port: Some(start), end_port: Some(end) };
        proto::PortSpecification { specification: Some(Specification::Range(range)) }
    }

    #[test]
    fn ports_become_ranges_that_do_not_touch() {
        assert_eq!(
            ports(&[port(81), range(8000, 9000), port(80), range(8500, 9100)]).unwrap(),
            [(80, 81), (8000, 9100)]
        );
        let all = proto::PortSpecification { specification: Some(Specification::AllPorts(proto::Unit {})) };
        assert_eq!(ports(&[port(80), all, port(65_535)]).unwrap(), [(1, 65_535)]);
        let error = ports(&[range(9000, 8000)]).unwrap_err();
        assert!(error.to_string().contains("9000"), "{error}");
    }
}
