//! GetMicrovm, ListMicrovms, SuspendMicrovm, ResumeMicrovm, TerminateMicrovm.

use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::MicrovmRecord;

use super::Service;
use super::error::{MicrovmError, ServiceError};
use super::page::Page;
use super::pipeline::{Admitted, Handler, NoImage};
use crate::access::Caller;
use crate::driver::record;
use crate::lifecycle::microvm::{Phase, Request};
use crate::operation::Operation;
use crate::records;
use crate::store::{Scan, Table};

/// Bytes of a timestamp in a key.
const TIME: usize = 8;
/// Greatest number of index entries that one call examines when it filters by version.
const LOOKED_AT: usize = 1000;

/// Returns a microVM.
impl Handler for proto::GetMicrovmRequest {
    type Response = proto::Microvm;
    type Target = MicrovmRecord;

    fn target(&self, service: &Service, caller: &Caller) -> Result<MicrovmRecord, ServiceError> {
        service.microvm(caller, self.microvm_identifier.as_deref())
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        Ok(call.target.microvm.take().unwrap_or_default())
    }
}

/// The account's microVMs, newest first. The target is the image whose microVMs are wanted, if the request names one.
impl Handler for proto::ListMicrovmsRequest {
    type Response = proto::ListMicrovmsResponse;
    type Target = NoImage<Option<ImageName>>;

    fn target(&self, service: &Service, caller: &Caller) -> Result<Self::Target, ServiceError> {
        let image = self.image_identifier.as_deref();
        let image = image.map(|image| service.image(caller, Some(image))).transpose()?;
        if let Some(image) = image.as_ref().filter(|image| image.account != caller.account) {
            let resource = Some((image.account.as_str(), image.name.as_str()));
            return Err(service.denied(caller, Operation::ListMicrovms, resource).into());
        }
        Ok(NoImage(image))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, account) = (call.service, &call.caller.account);
        let page = service.page(call.caller, &call.request)?;
        let version = call.request.image_version.as_deref().map(ImageVersion::number_of);
        let (ids, next_token) = match (&call.target.0, version) {
            (_, Some(None)) => (Vec::new(), None), // no microVM can have such a version
            (Some(image), version) => ids_of_image(service, &page, image, version.flatten())?,
            (None, version) => ids(service, &page, account, version.flatten())?,
        };
        let mut items = Vec::with_capacity(ids.len());
        for id in ids {
            let record = service.db().get(Table::Microvms, &records::microvm(account, &id))?;
            items.extend(record.and_then(item)); // a microVM that is being removed stays in an index a moment longer
        }
        Ok(proto::ListMicrovmsResponse { items, next_token })
    }
}

/// Ids of the account's microVMs on a page.
fn ids(
    service: &Service,
    page: &Page,
    account: &str,
    version: Option<u32>,
) -> Result<(Vec<String>, Option<String>), ServiceError> {
    let prefix = records::account(account);
    ids_in(service, page, Table::MicrovmsByTime, &prefix, |id, _| {
        let Some(version) = version else { return Ok(true) };
        let record: Option<MicrovmRecord> =
            service.db().get(Table::Microvms, &records::microvm(account, id))?;
        Ok(record.is_some_and(|record| record.version_number == version))
    })
}

/// Ids of an image's microVMs on a page.
fn ids_of_image(
    service: &Service,
    page: &Page,
    image: &ImageName,
    version: Option<u32>,
) -> Result<(Vec<String>, Option<String>), ServiceError> {
    let prefix = records::of_image(&image.account, &image.name);
    ids_in(service, page, Table::MicrovmsByImage, &prefix, |_, value| {
        Ok(version.is_none_or(|version| value == version.to_be_bytes()))
    })
}

/// Ids on a page of an index. Entries that `wanted` rejects are skipped; a page may therefore be short and still have a
/// successor.
fn ids_in(
    service: &Service,
    page: &Page,
    table: Table,
    prefix: &[u8],
    wanted: impl Fn(&str, &[u8]) -> Result<bool, ServiceError>,
) -> Result<(Vec<String>, Option<String>), ServiceError> {
    let mut ids = Vec::new();
    let mut after = page.after.clone();
    let mut looked_at = 0_usize;
    loop {
        let limit = page.limit();
        let entries = service.db().scan(&Scan { table, prefix, after: after.as_deref(), limit })?;
        let more = entries.len() == limit;
        for (key, value) in entries {
            if ids.len() == page.size || looked_at == LOOKED_AT {
                let next = after.as_deref().map(|last| service.next_token(page, last)).transpose()?;
                return Ok((ids, next.flatten()));
            }
            looked_at = looked_at.saturating_add(1);
            let id = key.get(prefix.len().saturating_add(TIME)..).and_then(|id| std::str::from_utf8(id).ok());
            if let Some(id) = id
                && wanted(id, &value)?
            {
                ids.push(id.to_owned());
            }
            after = Some(key);
        }
        if !more {
            return Ok((ids, None));
        }
    }
}

/// Suspends a microVM.
impl Handler for proto::SuspendMicrovmRequest {
    type Response = proto::SuspendMicrovmResponse;
    type Target = MicrovmRecord;

    fn target(&self, service: &Service, caller: &Caller) -> Result<MicrovmRecord, ServiceError> {
        service.microvm(caller, self.microvm_identifier.as_deref())
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        change(call.service, &call.target, Request::Suspend).await?;
        Ok(proto::SuspendMicrovmResponse {})
    }
}

/// Resumes a microVM.
impl Handler for proto::ResumeMicrovmRequest {
    type Response = proto::ResumeMicrovmResponse;
    type Target = MicrovmRecord;

    fn target(&self, service: &Service, caller: &Caller) -> Result<MicrovmRecord, ServiceError> {
        service.microvm(caller, self.microvm_identifier.as_deref())
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        change(call.service, &call.target, Request::Resume).await?;
        Ok(proto::ResumeMicrovmResponse {})
    }
}

/// Terminates a microVM.
impl Handler for proto::TerminateMicrovmRequest {
    type Response = proto::TerminateMicrovmResponse;
    type Target = MicrovmRecord;

    fn target(&self, service: &Service, caller: &Caller) -> Result<MicrovmRecord, ServiceError> {
        service.microvm(caller, self.microvm_identifier.as_deref())
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        change(call.service, &call.target, Request::Terminate).await?;
        Ok(proto::TerminateMicrovmResponse {})
    }
}

async fn change(service: &Service, microvm: &MicrovmRecord, request: Request) -> Result<(), ServiceError> {
    Ok(service.parts().microvms.request(&microvm.account, record::id(microvm), request).await?)
}

impl Service {
    /// Whether an image has microVMs that have not ended.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    pub(super) fn is_in_use(&self, image: &ImageName) -> Result<bool, ServiceError> {
        let prefix = records::of_image(&image.account, &image.name);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let scan = Scan {
                table: Table::MicrovmsByImage,
                prefix: &prefix,
                after: after.as_deref(),
                limit: LOOKED_AT,
            };
            let entries = self.db().scan(&scan)?;
            let more = entries.len() == LOOKED_AT;
            for (key, _) in entries {
                let id = key.get(prefix.len().saturating_add(TIME)..);
                if let Some(id) = id.and_then(|id| std::str::from_utf8(id).ok()) {
                    let key = records::microvm(&image.account, id);
                    let record: Option<MicrovmRecord> = self.db().get(Table::Microvms, &key)?;
                    if record.is_some_and(|record| record.phase() != Phase::Terminated) {
                        return Ok(true);
                    }
                }
                after = Some(key);
            }
            if !more {
                return Ok(false);
            }
        }
    }

    /// The record of a microVM of the caller's account.
    ///
    /// # Errors
    ///
    /// [`MicrovmError::NotFound`].
    pub(super) fn microvm(&self, caller: &Caller, id: Option<&str>) -> Result<MicrovmRecord, ServiceError> {
        let id = id.unwrap_or_default();
        let found = self.db().get(Table::Microvms, &records::microvm(&caller.account, id))?;
        Ok(found.ok_or_else(|| MicrovmError::NotFound(id.to_owned()))?)
    }
}

fn item(record: MicrovmRecord) -> Option<proto::MicrovmItem> {
    let microvm = record.microvm?;
    Some(proto::MicrovmItem {
        state: microvm.state,
        microvm_id: microvm.microvm_id,
        image_arn: microvm.image_arn,
        image_version: microvm.image_version,
        started_at: microvm.started_at,
    })
}
