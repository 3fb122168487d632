//! GetMicrovm, ListMicrovms, SuspendMicrovm, ResumeMicrovm, TerminateMicrovm.

use hearth_model::image::ImageName;
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::MicrovmRecord;

use super::Service;
use super::error::ServiceError;
use super::page::Page;
use crate::access::Caller;
use crate::lifecycle::microvm::Request;
use crate::operation::Operation;
use crate::records;
use crate::store::{Scan, Table};

/// Bytes of a timestamp in a key.
const TIME: usize = 8;
/// Greatest number of index entries that one call examines when it filters by version.
const LOOKED_AT: usize = 1000;

impl Service {
    /// GetMicrovm: returns a microVM.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn get_microvm(
        &self,
        caller: &Caller,
        request: proto::GetMicrovmRequest,
    ) -> Result<proto::Microvm, ServiceError> {
        self.begin(caller, &request)?;
        let record = self.microvm(caller, Operation::GetMicrovm, request.microvm_identifier)?;
        Ok(record.microvm.unwrap_or_default())
    }

    /// ListMicrovms: the account's microVMs, newest first.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn list_microvms(
        &self,
        caller: &Caller,
        request: proto::ListMicrovmsRequest,
    ) -> Result<proto::ListMicrovmsResponse, ServiceError> {
        self.begin(caller, &request)?;
        let image = request.image_identifier.as_deref();
        let image = image.map(|image| self.config().image_name(&caller.account, image)).transpose()?;
        self.authorise(caller, Operation::ListMicrovms)?;
        let page = self.page(caller, &request)?;
        let version = request.image_version.as_deref();
        let version = version.map(|version| ImageVersion::parse(version).map(ImageVersion::number));
        let (ids, next_token) = match (&image, version) {
            (Some(image), _) if image.account != caller.account => (Vec::new(), None),
            (_, Some(None)) => (Vec::new(), None), // no microVM can have such a version
            (Some(image), version) => self.ids_of_image(&page, image, version.flatten())?,
            (None, version) => self.ids(&page, &caller.account, version.flatten())?,
        };
        let mut items = Vec::with_capacity(ids.len());
        for id in ids {
            let record = self.db().get(Table::Microvms, &records::microvm(&caller.account, &id))?;
            items.extend(record.and_then(item)); // a microVM that is being removed stays in an index a moment longer
        }
        Ok(proto::ListMicrovmsResponse { items, next_token })
    }

    /// Ids of the account's microVMs on a page.
    fn ids(
        &self,
        page: &Page,
        account: &str,
        version: Option<u32>,
    ) -> Result<(Vec<String>, Option<String>), ServiceError> {
        let prefix = records::account(account);
        self.ids_in(page, Table::MicrovmsByTime, &prefix, |id, _| {
            let Some(version) = version else { return Ok(true) };
            let record: Option<MicrovmRecord> =
                self.db().get(Table::Microvms, &records::microvm(account, id))?;
            Ok(record.is_some_and(|record| record.version_number == version))
        })
    }

    /// Ids of an image's microVMs on a page.
    fn ids_of_image(
        &self,
        page: &Page,
        image: &ImageName,
        version: Option<u32>,
    ) -> Result<(Vec<String>, Option<String>), ServiceError> {
        let prefix = records::of_image(&image.account, &image.name);
        self.ids_in(page, Table::MicrovmsByImage, &prefix, |_, value| {
            Ok(version.is_none_or(|version| value == version.to_be_bytes()))
        })
    }

    /// Ids on a page of an index. Entries that `wanted` rejects are skipped; a page may therefore be short and still
    /// have a successor.
    fn ids_in(
        &self,
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
            let entries = self.db().scan(&Scan { table, prefix, after: after.as_deref(), limit })?;
            let more = entries.len() == limit;
            for (key, value) in entries {
                if ids.len() == page.size || looked_at == LOOKED_AT {
                    let next = after.as_deref().map(|last| self.next_token(page, last)).transpose()?;
                    return Ok((ids, next.flatten()));
                }
                looked_at = looked_at.saturating_add(1);
                let id =
                    key.get(prefix.len().saturating_add(TIME)..).and_then(|id| std::str::from_utf8(id).ok());
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

    /// SuspendMicrovm: suspends a microVM.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn suspend_microvm(
        &self,
        caller: &Caller,
        request: proto::SuspendMicrovmRequest,
    ) -> Result<proto::SuspendMicrovmResponse, ServiceError> {
        self.begin(caller, &request)?;
        self.change(caller, Operation::SuspendMicrovm, request.microvm_identifier, Request::Suspend).await?;
        Ok(proto::SuspendMicrovmResponse {})
    }

    /// ResumeMicrovm: resumes a microVM.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn resume_microvm(
        &self,
        caller: &Caller,
        request: proto::ResumeMicrovmRequest,
    ) -> Result<proto::ResumeMicrovmResponse, ServiceError> {
        self.begin(caller, &request)?;
        self.change(caller, Operation::ResumeMicrovm, request.microvm_identifier, Request::Resume).await?;
        Ok(proto::ResumeMicrovmResponse {})
    }

    /// TerminateMicrovm: terminates a microVM.
    ///
    /// # Errors
    ///
    /// [`ServiceError`].
    pub async fn terminate_microvm(
        &self,
        caller: &Caller,
        request: proto::TerminateMicrovmRequest,
    ) -> Result<proto::TerminateMicrovmResponse, ServiceError> {
        self.begin(caller, &request)?;
        let id = request.microvm_identifier;
        self.change(caller, Operation::TerminateMicrovm, id, Request::Terminate).await?;
        Ok(proto::TerminateMicrovmResponse {})
    }

    async fn change(
        &self,
        caller: &Caller,
        operation: Operation,
        id: Option<String>,
        request: Request,
    ) -> Result<(), ServiceError> {
        let id = id.unwrap_or_default();
        self.microvm(caller, operation, Some(id.clone()))?;
        Ok(self.parts().microvms.request(&caller.account, &id, request).await?)
    }

    /// The record of a microVM, if the caller may perform the operation on it.
    pub(super) fn microvm(
        &self,
        caller: &Caller,
        operation: Operation,
        id: Option<String>,
    ) -> Result<MicrovmRecord, ServiceError> {
        let id = id.unwrap_or_default();
        let key = records::microvm(&caller.account, &id);
        let found: Option<MicrovmRecord> = self.db().get(Table::Microvms, &key)?;
        let record = found.ok_or(ServiceError::MicrovmNotFound(id))?;
        let image = ImageName { account: record.account.clone(), name: record.image_name.clone() };
        self.authorise_image(caller, operation, &image)?;
        Ok(record)
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
