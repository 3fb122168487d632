//! Tests of GetMicrovm, the operations that change a microVM, and tokens.

use hearth_proto::microvms::v1 as proto;
use proto::MicrovmState as State;
use proto::port_specification::Specification;

use super::*;
use crate::tokens::{HEADER, Kind};

fn some(id: &str) -> Option<String> {
    Some(id.to_owned())
}

fn port(port: i32) -> proto::PortSpecification {
    proto::PortSpecification { specification: Some(Specification::Port(port)) }
}

impl Host {
    async fn auth_token(&self, id: &str, minutes: i32) -> Result<String, ServiceError> {
        let request = proto::CreateMicrovmAuthTokenRequest {
            microvm_identifier: some(id),
            expiration_in_minutes: Some(minutes),
            allowed_ports: vec![port(80), port(81)],
        };
        let response = self.service.call_as(&self.caller, request).await?;
        assert_eq!(response.auth_token.len(), 1);
        Ok(response.auth_token[HEADER].clone())
    }

    async fn shell_token(&self, id: &str) -> Result<String, ServiceError> {
        let request = proto::CreateMicrovmShellAuthTokenRequest {
            microvm_identifier: some(id),
            expiration_in_minutes: Some(5),
        };
        let response = self.service.call_as(&self.caller, request).await?;
        Ok(response.auth_token[HEADER].clone())
    }
}

#[tokio::test]
async fn a_microvm_is_got_by_who_may() {
    let host = host(Profile::Default).await;
    let id = host.microvm("1", State::Running, &["HTTP_INGRESS"]).await;
    let get = proto::GetMicrovmRequest { microvm_identifier: some(&id) };
    let microvm = host.service.call_as(&host.caller, get.clone()).await.unwrap();
    assert_eq!((microvm.microvm_id.as_str(), microvm.state()), (id.as_str(), State::Running));
    let other = caller("999999999999", [Policy::everything()].into());
    let error = host.service.call_as(&other, get.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("MicroVM not found: {id}"));
    assert_eq!(error.exception().name, "ResourceNotFoundException");
    let policy = Policy { actions: vec!["*".into()], images: vec!["web".into()], roles: None };
    let error = host.service.call_as(&caller(ACCOUNT, [policy].into()), get).await.unwrap_err();
    assert_eq!(error.exception().name, "AccessDeniedException");
}

#[tokio::test]
async fn what_has_ended_stays_ended() {
    let host = host(Profile::Default).await;
    let id = host.microvm("1", State::Terminated, &["HTTP_INGRESS"]).await;
    let ended = format!("The MicroVM {id} has been terminated and its state cannot be changed.");
    let (service, caller) = (&host.service, &host.caller);
    let suspend = proto::SuspendMicrovmRequest { microvm_identifier: some(&id) };
    let error = service.call_as(caller, suspend).await.unwrap_err();
    assert_eq!((error.to_string(), error.exception().name), (ended.clone(), "ValidationException"));
    let resume = proto::ResumeMicrovmRequest { microvm_identifier: some(&id) };
    assert_eq!(service.call_as(caller, resume).await.unwrap_err().to_string(), ended);
    let terminate = proto::TerminateMicrovmRequest { microvm_identifier: some(&id) };
    service.call_as(caller, terminate).await.unwrap();
    assert_eq!(host.auth_token(&id, 5).await.unwrap_err().to_string(), ended);
    let unknown = proto::TerminateMicrovmRequest { microvm_identifier: some("microvm-2") };
    let error = service.call_as(caller, unknown).await.unwrap_err();
    assert_eq!(error.to_string(), "MicroVM not found: microvm-2");
}

#[tokio::test]
async fn a_token_says_what_it_was_made_for() {
    let host = host(Profile::Default).await;
    let id = host.microvm("1", State::Suspended, &["HTTP_INGRESS"]).await;
    let claims = host.tokens.open_token(&host.auth_token(&id, 60).await.unwrap()).unwrap();
    assert_eq!((claims.sub.as_str(), claims.aud.as_str()), (id.as_str(), "microvm-1.example"));
    assert_eq!((claims.kind, claims.ports, claims.exp - claims.iat), (Kind::Http, vec![(80, 81)], 3600));
    let error = host.auth_token(&id, 61).await.unwrap_err();
    assert_eq!(error.to_string(), "ExpirationMinutes 61 exceeded max allowed of 60.");
}

#[tokio::test]
async fn a_shell_needs_its_connector() {
    let host = host(Profile::Default).await;
    let http = host.microvm("1", State::Running, &["HTTP_INGRESS"]).await;
    assert_eq!(
        host.shell_token(&http).await.unwrap_err().to_string(),
        "Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM."
    );
    let shell = host.microvm("2", State::Running, &["SHELL_INGRESS"]).await;
    let claims = host.tokens.open_token(&host.shell_token(&shell).await.unwrap()).unwrap();
    assert_eq!((claims.kind, claims.ports), (Kind::Shell, vec![]));
    assert!(host.auth_token(&shell, 5).await.unwrap_err().to_string().contains("HTTP_INGRESS"));
    let combined = host.microvm("3", State::Running, &["SHELL_INGRESS", "ALL_INGRESS"]).await;
    assert_eq!(
        host.shell_token(&combined).await.unwrap_err().to_string(),
        "ALL_INGRESS cannot be combined with other ingress network connectors; \
         use HTTP_INGRESS and/or SHELL_INGRESS instead"
    );
    let none = host.microvm("4", State::Running, &["NO_INGRESS"]).await;
    assert_eq!(host.auth_token(&none, 5).await.unwrap_err().exception().name, "ValidationException");
}
