//! PutArtifact.
//!
//! The request is a stream. Its first message contains the name of the artifact, or its key: this message goes through
//! the checks, and is audited. The work receives the others, which contain the data.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use hearth_proto::host::v1::put_artifact_request::Part;
use hearth_proto::host::v1::{PutArtifactRequest, PutArtifactResponse};

use super::super::Service;
use super::super::error::ServiceError;
use super::super::pipeline::{Admitted, Handler, Input, NoImage};
use super::artifacts::key::{ArtifactName, Key};
use super::artifacts::object::About;
use super::artifacts::upload::{Condition, Naming};
use super::bytes;
use crate::access::Caller;

/// Greatest number of bytes in one message of an upload. The front end refuses larger messages before they are received
/// (`api::grpc`), so all of them are bounded by it, and not only the first, which is checked.
pub(crate) const DATA_MAX: usize = 1 << 20;

/// Messages of an upload.
type Messages = Pin<Box<dyn Stream<Item = Result<PutArtifactRequest, ServiceError>> + Send>>;

/// An upload whose first message has arrived.
pub(crate) struct ArtifactStream {
    first: Result<PutArtifactRequest, ServiceError>,
    others: Messages,
}

impl ArtifactStream {
    /// Receives the first message. An upload without messages is one whose first message is empty.
    pub(crate) async fn receive(
        messages: impl Stream<Item = Result<PutArtifactRequest, ServiceError>> + Send + 'static,
    ) -> Self {
        let mut others: Messages = Box::pin(messages);
        let mut first = others.next().await.unwrap_or_else(|| Ok(PutArtifactRequest::default()));
        if let Ok(PutArtifactRequest { part: Some(Part::Data(data)) }) = &mut first {
            data.clear(); // it is refused; the audit log must not contain data
        }
        Self { first, others }
    }
}

impl Input for ArtifactStream {
    type Message = PutArtifactRequest;

    fn message(&self) -> Result<&PutArtifactRequest, ServiceError> {
        self.first.as_ref().map_err(Clone::clone)
    }
}

/// Stores a zip in the host's local bucket.
impl Handler for ArtifactStream {
    type Response = PutArtifactResponse;
    type Target = NoImage<Naming>;

    fn target(&self, _: &Service, _: &Caller) -> Result<Self::Target, ServiceError> {
        match &self.message()?.part {
            Some(Part::Name(name)) => Ok(NoImage(Naming::Content(ArtifactName::new(name)?))),
            Some(Part::Key(key)) => Ok(NoImage(Naming::Key(Key::new(key)?))),
            _ => Err(ServiceError::invalid("name", "The first message must have the name of the artifact")),
        }
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (artifacts, account) = (&call.service.parts().host.artifacts, &call.caller.account);
        let by_content = matches!(call.target.0, Naming::Content(_));
        let mut upload = artifacts.begin(account, by_content, None).await?;
        while let Some(message) = call.request.others.next().await {
            match message?.part {
                Some(Part::Data(data)) => upload.write(&data).await?,
                Some(Part::Name(_) | Part::Key(_)) => {
                    return Err(ServiceError::invalid("name", "Only the first message has the name"));
                }
                None => {}
            }
        }
        let about = About::default();
        let stored = artifacts.finish(account, upload, &call.target.0, about, Condition::None).await?;
        Ok(PutArtifactResponse { uri: artifacts.uri(&stored.key), bytes: bytes(stored.bytes) })
    }
}
