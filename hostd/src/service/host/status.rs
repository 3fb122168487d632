//! GetHostStatus.

use hearth_image_builder::artifact::ArtifactLimits as Limits;
use hearth_proto::host::v1::{AccountStatus, ArtifactLimits, GetHostStatusRequest, HostStatus};

use super::super::Service;
use super::super::error::ServiceError;
use super::super::pipeline::{Admitted, Anybodys, Handler};
use super::bytes;
use crate::access::Caller;
use crate::operation::Operation;

/// Returns what this host has, how much of it is in use, and by what. Callers without the grant for that get what clients need:
/// where endpoints are, what there is of their own account, and what a zip may have.
impl Handler for GetHostStatusRequest {
    type Response = HostStatus;
    type Target = Anybodys;

    fn target(&self, _: &Service, _: &Caller) -> Result<Anybodys, ServiceError> {
        Ok(Anybodys)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, caller) = (call.service, call.caller);
        let status = (service.parts().host.status)(&caller.account);
        let status = HostStatus {
            account_status: Some(account(service, &caller.account)),
            artifact_limits: Some(artifact_limits(&service.parts().artifacts.limits)),
            ..status
        };
        if caller.may(Operation::GetHostStatus, None) {
            return Ok(status);
        }
        // A field that comes later is the host's unless it is named here.
        let HostStatus { region, account, profile, endpoint, account_status, artifact_limits, .. } = status;
        let host = HostStatus::default();
        Ok(HostStatus { region, account, profile, endpoint, account_status, artifact_limits, ..host })
    }
}

/// What a zip may have.
fn artifact_limits(limits: &Limits) -> ArtifactLimits {
    ArtifactLimits {
        max_entries: bytes(limits.zip.max_entries),
        max_unpacked_bytes: bytes(limits.zip.max_unpacked_bytes),
        max_directory_bytes: bytes(limits.zip.max_directory_bytes),
        max_zip_bytes: bytes(limits.max_zip_bytes),
    }
}

/// What an account uses, and may use.
fn account(service: &Service, account: &str) -> AccountStatus {
    let limits = &service.config().limits;
    let disk = &service.parts().disk;
    AccountStatus {
        memory_mib: bytes(service.parts().microvms.memory_of(account)),
        max_memory_mib: limits.memory_mib.map(bytes),
        max_images: limits.images.map(bytes),
        max_versions: limits.versions.map(bytes),
        max_builds: limits.builds.map(bytes),
        disk_bytes: bytes(disk.of_account(account).taken),
        max_disk_bytes: disk.quota().map(bytes),
    }
}
