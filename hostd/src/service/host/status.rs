//! GetHostStatus.

use hearth_proto::host::v1::{GetHostStatusRequest, HostStatus};

use super::super::Service;
use super::super::error::ServiceError;
use super::super::pipeline::{Admitted, Handler, NoImage};
use crate::access::Caller;

/// Returns what this host has, how much of it is in use, and by what.
impl Handler for GetHostStatusRequest {
    type Response = HostStatus;
    type Target = NoImage;

    fn target(&self, _: &Service, _: &Caller) -> Result<NoImage, ServiceError> {
        Ok(NoImage(()))
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        Ok((call.service.parts().host.status)(&call.caller.account))
    }
}
