//! gRPC: `hearth.microvms.v1`, `hearth.host.v1`, reflection (v1 and v1alpha) and health.
//!
//! * [`call`] – what every call goes through: its id, who calls, whom it is told
//! * [`microvms`], [`host`] – the services; [`operations`] – what the host's service needs of others
//! * [`status`] – errors; [`listen`] – where it listens

mod call;
mod host;
pub mod listen;
mod microvms;
pub mod operations;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hearth_proto::host::v1::host_service_server::HostServiceServer;
use hearth_proto::microvms::v1::microvm_service_server::MicrovmServiceServer;
use tonic::service::Routes;

use self::operations::HostOperations;
use super::observer::Observer;
use crate::access::Access;
use crate::service::Service;

/// The most that a request may have: 50 environment variables of 4096 characters of 4 bytes, and the rest.
const MAX_REQUEST: usize = 2 << 20;
/// The most that an answer may have: a page of 50 versions with as many variables.
const MAX_ANSWER: usize = 128 << 20;

/// What the front end is made of. Copies are cheap and reach the same.
#[derive(Debug, Clone)]
pub struct Grpc {
    /// The operations.
    pub service: Service,
    /// The host's own.
    pub host: Arc<dyn HostOperations>,
    /// Who calls.
    pub access: Arc<Access>,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
}

/// Why the services cannot be described.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors of the services are damaged: {0}")]
pub struct DescriptorError(#[from] tonic_reflection::server::Error);

impl Grpc {
    /// All services.
    ///
    /// # Errors
    ///
    /// [`DescriptorError`].
    pub async fn routes(self) -> Result<Routes, DescriptorError> {
        let described = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(hearth_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<MicrovmServiceServer<Self>>().await;
        reporter.set_serving::<HostServiceServer<Self>>().await;
        let microvms = MicrovmServiceServer::new(self.clone())
            .max_decoding_message_size(MAX_REQUEST)
            .max_encoding_message_size(MAX_ANSWER);
        let host = HostServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST)
            .max_encoding_message_size(MAX_ANSWER);
        Ok(Routes::new(microvms)
            .add_service(host)
            .add_service(described().build_v1()?)
            .add_service(described().build_v1alpha()?)
            .add_service(health))
    }
}
