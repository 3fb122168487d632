//! Client tokens: a request that is repeated with the same token is executed once and gets the same response
//! (docs/behaviour.md, "Client tokens").
//!
//! A token is stored with the response, in the batch that creates what the request asks for; that batch expects that
//! the token does not exist yet. Of two identical calls at the same time, one therefore creates, and the other one
//! finds the token when its own batch conflicts. Responses are stored as they were sent, so that a replay equals the
//! first response to the byte.
//!
//! A token is kept for a day. The token of an image is forgotten together with the image: a later request with this
//! token creates a new image.

use std::time::Duration;

use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::{ClientTokenRecord, ImageRecord};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::Service;
use super::error::{InvalidRequest, ServiceError};
use crate::access::Caller;
use crate::clock;
use crate::driver::record::millis;
use crate::operation::{Operation, Request};
use crate::records;
use crate::store::{Batch, Table};
use crate::turns::Turn;

/// A request with a client token.
pub(crate) trait HasClientToken: Request {
    /// The token.
    fn client_token_mut(&mut self) -> &mut Option<String>;
}

impl HasClientToken for proto::RunMicrovmRequest {
    fn client_token_mut(&mut self) -> &mut Option<String> {
        &mut self.client_token
    }
}

impl HasClientToken for proto::CreateMicrovmImageRequest {
    fn client_token_mut(&mut self) -> &mut Option<String> {
        &mut self.client_token
    }
}

impl HasClientToken for proto::UpdateMicrovmImageRequest {
    fn client_token_mut(&mut self) -> &mut Option<String> {
        &mut self.client_token
    }
}

/// A response that is stored with a client token.
pub(crate) trait StoredResponse: prost::Message + Default {
    /// Name of the image whose deletion makes the token invalid.
    fn image_name(&self) -> Option<&str>;
}

impl StoredResponse for proto::Microvm {
    fn image_name(&self) -> Option<&str> {
        None
    }
}

impl StoredResponse for proto::MicrovmImageDetails {
    fn image_name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

/// The client token of a request that has not been answered yet; empty for a request without a token.
#[derive(Debug, Default)]
pub(crate) struct ClientToken {
    of: Option<Used>,
}

#[derive(Debug)]
struct Used {
    account: String,
    key: Vec<u8>,
    request_sha256: Vec<u8>,
    /// The stored record that is to be replaced: it has expired, or belongs to an image that is gone.
    stale: Option<Vec<u8>>,
}

/// Result of looking up a client token.
#[derive(Debug)]
pub(crate) enum Replay<A> {
    /// The token was used for the same request, and this was the response.
    Answered(A),
    /// The token was not used. Store it with [`Service::remember`].
    New(ClientToken),
}

impl Service {
    /// Checks whether a request has been answered before. Call this again when the batch with the token conflicts.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest::ClientTokenReused`], and errors of the store.
    pub(crate) fn replay<R: HasClientToken, A: StoredResponse>(
        &self,
        caller: &Caller,
        request: &R,
    ) -> Result<Replay<A>, ServiceError> {
        let mut request = request.clone();
        let Some(token) = request.client_token_mut().take() else {
            return Ok(Replay::New(ClientToken::default()));
        };
        let key = records::client_token(&caller.account, R::OPERATION.name(), &token);
        let request_sha256 = Sha256::digest(request.encode_to_vec()).to_vec();
        let mut used = Used { account: caller.account.clone(), key, request_sha256, stale: None };
        if let Some(value) = self.db().get_bytes(Table::ClientTokens, &used.key)? {
            let record: ClientTokenRecord = self.db().decode(Table::ClientTokens, &used.key, &value)?;
            if let Some(response) = self.stored_response(&used, &record)? {
                return Ok(Replay::Answered(response));
            }
            used.stale = Some(value);
        }
        Ok(Replay::New(ClientToken { of: Some(used) }))
    }

    /// The response in a token's record; `None` where the record is not valid any more.
    fn stored_response<A: StoredResponse>(
        &self,
        used: &Used,
        record: &ClientTokenRecord,
    ) -> Result<Option<A>, ServiceError> {
        let expired =
            record.expires_at.is_none_or(|expires_at| clock::time(&expires_at) <= self.clock().now());
        if expired {
            return Ok(None);
        }
        let response: A = self.db().decode(Table::ClientTokens, &used.key, &record.response)?;
        if let Some(name) = response.image_name() {
            let image: Option<ImageRecord> =
                self.db().get(Table::Images, &records::image(&used.account, name))?;
            if image.is_none_or(|image| image.uid != record.image_uid) {
                return Ok(None);
            }
        }
        if record.request_sha256 == used.request_sha256 {
            Ok(Some(response))
        } else {
            Err(InvalidRequest::ClientTokenReused.into())
        }
    }

    /// Waits until no other call with the same client token is in progress. Calls without a token do not wait.
    pub(crate) async fn turn(
        &self,
        caller: &Caller,
        operation: Operation,
        token: Option<&str>,
    ) -> Option<Turn> {
        let token = token?;
        Some(self.turns().queue(&format!("{}/{}/{token}", caller.account, operation.name())).await)
    }

    /// The batch that stores a token with the response. It is to be committed together with the changes that the
    /// request makes, and conflicts if the token was used in the meantime. `image_uid` is the image whose deletion
    /// makes the token invalid.
    pub(crate) fn remember<A: StoredResponse>(
        &self,
        token: &ClientToken,
        response: &A,
        image_uid: Option<&str>,
    ) -> Batch {
        let Some(used) = &token.of else { return Batch::new() };
        let kept = self.config().client_token_retention;
        let expires_at = clock::timestamp(self.clock().after(kept));
        let record = ClientTokenRecord {
            request_sha256: used.request_sha256.clone(),
            response: response.encode_to_vec(),
            expires_at: Some(expires_at),
            image_uid: image_uid.unwrap_or_default().to_owned(),
        };
        let mut batch = Batch::new();
        if let Some(stale) = &used.stale {
            batch = batch.expect_value(Table::ClientTokens, used.key.clone(), stale.clone());
            if let Ok(old) = ClientTokenRecord::decode(stale.as_slice())
                && let Some(at) = old.expires_at
            {
                // Otherwise the expiry of the old token would remove the new one.
                batch = batch.delete(Table::Expiries, expiry(&at, &used.key));
            }
        } else {
            batch = batch.expect_absent(Table::ClientTokens, used.key.clone());
        }
        batch.put(Table::ClientTokens, used.key.clone(), records::encode(&record)).put(
            Table::Expiries,
            expiry(&expires_at, &used.key),
            Vec::new(),
        )
    }
}

/// Default time for which a token is kept.
pub(crate) const RETENTION: Duration = Duration::from_secs(24 * 3600);

fn expiry(at: &prost_types::Timestamp, key: &[u8]) -> Vec<u8> {
    records::expiry(millis(Some(at)), records::Expiry::ClientToken, key)
}
