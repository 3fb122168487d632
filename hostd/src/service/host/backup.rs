//! BackUpStore.

use std::time::UNIX_EPOCH;

use hearth_proto::host::v1::{BackUpStoreRequest, BackUpStoreResponse};

use super::super::Service;
use super::super::error::ServiceError;
use super::super::pipeline::{Admitted, Handler, NoImage};
use super::bytes;
use crate::access::Caller;

/// Writes a consistent copy of the store into a new folder, which is named by the time.
impl Handler for BackUpStoreRequest {
    type Response = BackUpStoreResponse;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let service = call.service;
        let backups = &service.parts().host.backups;
        let now = service.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{}-{:03}", now.as_secs(), now.subsec_millis());
        let made = tokio::fs::create_dir_all(backups).await;
        made.map_err(|error| ServiceError::internal(format!("making {}: {error}", backups.display())))?;
        let size = service.db().back_up(backups.join(&name)).await?;
        Ok(BackUpStoreResponse { name, bytes: bytes(size) })
    }
}
