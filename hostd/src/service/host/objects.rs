//! ListArtifacts, GetArtifact, DeleteArtifact, and PutArtifact as S3 has it.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use hearth_proto::host::v1 as proto;
use hearth_proto::host::v1::put_artifact_request::Part;
use prost::Name as _;
use serde_json::Value;

use super::super::error::{InvalidRequest, ServiceError};
use super::super::pipeline::{Admitted, Handler, Input, NoImage, Response};
use super::super::{Service, json, page};
use super::artifacts::Artifacts;
use super::artifacts::error::ArtifactError;
use super::artifacts::key::Key;
use super::artifacts::list::Listing;
use super::artifacts::multipart::{PartName, UploadId};
use super::artifacts::object::{About, Download, Object};
use super::artifacts::upload::{Condition, Naming, Stored, Upload, Verify};
use super::bytes;
use super::stream::Answers;
use crate::access::Caller;
use crate::clock::timestamp;

/// The bytes of an upload.
pub(crate) type Data = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// What is told of an artifact.
pub(crate) fn artifact(artifacts: &Artifacts, object: &Object) -> proto::Artifact {
    proto::Artifact {
        key: object.about.key.clone(),
        uri: artifacts.uri(&object.about.key),
        bytes: bytes(object.bytes),
        modified_at: Some(timestamp(object.modified)),
        etag: object.about.etag.clone(),
    }
}

/// The account's artifacts by key.
impl Handler for proto::ListArtifactsRequest {
    type Response = proto::ListArtifactsResponse;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, request) = (call.service, &call.request);
        let page = service.page(call.caller, request)?;
        let token =
            page.after.clone().map(|after| String::from_utf8(after).map_err(|_| InvalidRequest::NextToken));
        let listing = Listing {
            prefix: request.prefix.clone().unwrap_or_default(),
            delimiter: request.delimiter.clone(),
            after: token.transpose()?.max(request.start_after.clone()),
            limit: page.size,
            bytes: page::BYTES,
        };
        let artifacts = &service.parts().host.artifacts;
        let found = artifacts.list(&call.caller.account, listing).await?;
        let next_token = match found.next {
            Some(last) => service.next_token(&page, last.as_bytes())?,
            None => None,
        };
        let items = found.objects.iter().map(|object| artifact(artifacts, object)).collect();
        Ok(proto::ListArtifactsResponse { items, common_prefixes: found.prefixes, next_token })
    }
}

/// The response is the open artifact.
impl Response for Download {
    fn json(&self) -> Value {
        Value::Null
    }
}

/// An artifact of the account.
impl Handler for proto::GetArtifactRequest {
    type Response = Download;
    type Target = NoImage<Key>;

    fn target(&self, _: &Service, _: &Caller) -> Result<Self::Target, ServiceError> {
        Ok(NoImage(Key::new(self.key())?))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Download, ServiceError> {
        call.service.parts().host.artifacts.get(&call.caller.account, &call.target.0).await
    }
}

impl Answers<proto::GetArtifactResponse> {
    /// What is known of an artifact, then its bytes.
    pub(crate) fn of_artifact(service: &Service, object: Download) -> Self {
        use proto::get_artifact_response::Part;
        let message = |part| proto::GetArtifactResponse { part: Some(part) };
        let about = Part::Artifact(artifact(&service.parts().host.artifacts, &object));
        let failed = |error: std::io::Error| ServiceError::from(ArtifactError::from(error));
        let data = object.read(0, u64::MAX).map_ok(|data| Part::Data(data.into())).map_err(failed);
        let parts = futures_util::stream::iter([Ok(about)]).chain(data);
        Self::new(service, parts.map_ok(message))
    }
}

/// Removes an artifact of the account.
impl Handler for proto::DeleteArtifactRequest {
    type Response = proto::DeleteArtifactResponse;
    type Target = NoImage<Key>;

    fn target(&self, _: &Service, _: &Caller) -> Result<Self::Target, ServiceError> {
        Ok(NoImage(Key::new(self.key())?))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        call.service.parts().host.artifacts.remove(&call.caller.account, &call.target.0).await?;
        Ok(proto::DeleteArtifactResponse {})
    }
}

/// PutArtifact with a key, in one step or in parts. Each step is a call of the operation, with the key as its request.
pub(crate) struct PutObject {
    message: proto::PutArtifactRequest,
    step: Option<PutStep>,
}

/// A step of PutArtifact.
pub(crate) enum PutStep {
    /// The whole artifact.
    Whole { about: About, data: Data, verify: Option<Box<dyn Verify>>, condition: Condition },
    /// Begins an upload in parts.
    Begin(About),
    /// A part.
    Part { upload: String, number: u32, data: Data, verify: Option<Box<dyn Verify>> },
    /// Makes the parts an artifact.
    Complete { upload: String, parts: Vec<PartName>, verify: Option<Box<dyn Verify>>, condition: Condition },
    /// Gives up an upload in parts.
    Abort { upload: String },
}

/// The result of a step.
#[derive(Debug)]
pub(crate) enum Put {
    /// The artifact is stored.
    Stored { stored: Stored, uri: String },
    /// An upload in parts has begun.
    Begun(UploadId),
    /// A part is stored.
    Part(Stored),
    /// The upload has ended.
    Aborted,
}

impl PutObject {
    pub(crate) fn new(key: &str, step: PutStep) -> Self {
        let message = proto::PutArtifactRequest { part: Some(Part::Key(key.to_owned())) };
        Self { message, step: Some(step) }
    }
}

impl Input for PutObject {
    type Message = proto::PutArtifactRequest;

    fn message(&self) -> Result<&Self::Message, ServiceError> {
        Ok(&self.message)
    }
}

impl Response for Put {
    fn json(&self) -> Value {
        let Self::Stored { stored, uri } = self else { return Value::Null };
        let response = proto::PutArtifactResponse { uri: uri.clone(), bytes: bytes(stored.bytes) };
        json::to_json(&proto::PutArtifactResponse::full_name(), &response)
    }
}

impl Handler for PutObject {
    type Response = Put;
    type Target = NoImage<Key>;

    fn target(&self, _: &Service, _: &Caller) -> Result<Self::Target, ServiceError> {
        match &self.message.part {
            Some(Part::Key(key)) => Ok(NoImage(Key::new(key)?)),
            _ => Err(ArtifactError::Key.into()),
        }
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Put, ServiceError> {
        let (artifacts, account) = (&call.service.parts().host.artifacts, call.caller.account.as_str());
        let key = &call.target.0;
        let step = call.request.step.take();
        let step = step.ok_or_else(|| ServiceError::internal("a step of an upload was performed twice"))?;
        match step {
            PutStep::Whole { about, data, verify, condition } => {
                about.check()?;
                let mut upload = artifacts.begin(account, false, verify).await?;
                receive(&mut upload, data).await?;
                let naming = Naming::Key(key.clone());
                let stored = artifacts.finish(account, upload, &naming, about, condition).await?;
                Ok(Put::Stored { uri: artifacts.uri(&stored.key), stored })
            }
            PutStep::Begin(about) => Ok(Put::Begun(artifacts.begin_parts(account, key, about).await?)),
            PutStep::Part { upload, number, data, verify } => {
                let of = (key, UploadId::new(&upload)?);
                let mut part = artifacts.begin_part(account, of, number, verify).await?;
                receive(&mut part, data).await?;
                Ok(Put::Part(artifacts.finish_part(account, of, number, part).await?))
            }
            PutStep::Complete { upload, parts, verify, condition } => {
                let of = (key, UploadId::new(&upload)?);
                let stored = artifacts.complete_parts(account, of, parts, verify, condition).await?;
                Ok(Put::Stored { uri: artifacts.uri(&stored.key), stored })
            }
            PutStep::Abort { upload } => {
                artifacts.abort_parts(account, (key, UploadId::new(&upload)?)).await?;
                Ok(Put::Aborted)
            }
        }
    }
}

/// Writes all data of an upload.
async fn receive(upload: &mut Upload, mut data: Data) -> Result<(), ServiceError> {
    while let Some(chunk) = data.next().await {
        upload.write(&chunk.map_err(ArtifactError::Broken)?).await?;
    }
    Ok(())
}
