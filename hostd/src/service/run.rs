//! RunMicrovm.
//!
//! Order of the checks: the request's constraints, the syntax of the image's name, permission, the client token, image
//! and version, the payload, the key, the log, connectors, the role (docs/behaviour.md, "Order of checks"). The driver checks the account's
//! memory, then the capacity of the host. The commit of the launch expects the version to be unchanged, so that a
//! request that deactivates or deletes the version is ordered either before or after the launch.

use std::time::SystemTime;

use hearth_model::build::ImageBuild;
use hearth_model::connector::Connector;
use hearth_model::id::MicrovmId;
use hearth_model::image::ImageName;
use hearth_model::shape::MemoryClass;
use hearth_model::version::ImageVersion;
use hearth_proto::microvms::v1 as proto;
use hearth_proto::store::v1::{ImageRecord, MicrovmRecord, Phase, VersionRecord};
use uuid::Uuid;

use super::error::{ConfigurationError, ImageError, MicrovmError, NameError, ServiceError};
use super::idempotency::Replay;
use super::pipeline::{Admitted, Handler};
use super::{Profile, Service};
use crate::access::Caller;
use crate::driver::LaunchError;
use crate::lifecycle::image;
use crate::logs::names as logs;
use crate::records;
use crate::store::{Batch, Table};

/// Number of attempts to launch when a record changes in the meantime.
const ATTEMPTS: u32 = 8;

const INGRESS: &str = "ingressNetworkConnectors";
const EGRESS: &str = "egressNetworkConnectors";

/// The image, version and build that a microVM is launched from.
struct Source {
    image: ImageRecord,
    version: VersionRecord,
    /// The version's record as it is stored.
    stored: Vec<u8>,
    build_id: String,
}

/// Launches a microVM.
impl Handler for proto::RunMicrovmRequest {
    type Response = proto::Microvm;
    type Target = ImageName;

    const ATTEMPTS: u32 = ATTEMPTS;

    fn target(&self, service: &Service, caller: &Caller) -> Result<ImageName, ServiceError> {
        let identifier = self.image_identifier.as_deref().unwrap_or_default();
        Ok(service.config().image_to_run(&caller.account, identifier)?)
    }

    fn client_token(&self) -> Option<&str> {
        self.client_token.as_deref()
    }

    fn replay(&self, service: &Service, caller: &Caller) -> Result<Replay<proto::Microvm>, ServiceError> {
        service.replay(caller, self)
    }

    async fn work(call: &mut Admitted<'_, Self>) -> Result<Self::Response, ServiceError> {
        let (service, caller) = (call.service, call.caller);
        let (image, request) = (&call.target, &call.request);
        let source = service.source(image, request.image_version.as_deref())?;
        let record = service.record(&source, request)?;
        service.pass_role(caller, image, request).await?;
        service.admit_to_disk(&record.account)?;
        let response = record.microvm.clone().unwrap_or_default();
        let version = records::version(&image.account, &image.name, source.version.number);
        let batch = Batch::new().expect_value(Table::Versions, version, source.stored).and(service.remember(
            &call.token,
            &response,
            None,
        ));
        // A launch that has started is completed, even if the client disconnects.
        let microvms = service.parts().microvms.clone();
        let launch = tokio::spawn(async move { microvms.launch(record, batch).await });
        match launch.await.map_err(|error| ServiceError::internal(error.to_string()))? {
            Ok(()) => Ok(response),
            // The client token was used, or the version has changed.
            Err(LaunchError::Conflict) => Err(ServiceError::Contended {
                kind: "MicrovmImage",
                id: service.config().image_arn(&image.account, &image.name),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Service {
    /// The version to run: the requested one, or the newest active one.
    fn source(&self, image: &ImageName, version: Option<&str>) -> Result<Source, ServiceError> {
        let none = || ImageError::NoActiveVersion {
            arn: self.config().image_arn(&image.account, &image.name),
            version: version.map(str::to_owned),
        };
        let record: Option<ImageRecord> =
            self.db().get(Table::Images, &records::image(&image.account, &image.name))?;
        let number = image::requested_version(record.as_ref(), version).ok_or_else(none)?;
        let key = records::version(&image.account, &image.name, number);
        let stored = self.db().get_bytes(Table::Versions, &key)?.ok_or_else(none)?;
        let found: VersionRecord = self.db().decode(Table::Versions, &key, &stored)?;
        let arn = self.config().image_arn(&image.account, &image.name);
        let found = image::resolve(&arn, record.as_ref(), Some(found), version)?;
        let built = found.builds.iter().filter_map(|build| build.build.as_ref());
        let build = built.rev().find(|build| build.build_state() == proto::build_state::Value::Successful);
        let build_id = build.map(|build| build.build_id.clone()).ok_or_else(none)?;
        let record = record.ok_or_else(none)?;
        let files = ImageBuild::parse(&record.account, &record.uid, number, &build_id);
        if files.is_ok_and(|build| self.parts().damaged.of(&build).is_some()) {
            return Err(ImageError::Damaged { arn, version: ImageVersion::from(number).to_string() }.into());
        }
        Ok(Source { image: record, version: found, stored, build_id })
    }

    /// The record of a new microVM.
    fn record(
        &self,
        source: &Source,
        request: &proto::RunMicrovmRequest,
    ) -> Result<MicrovmRecord, ServiceError> {
        let version = source.version.version.clone().unwrap_or_default();
        let payload = request.run_hook_payload.clone().unwrap_or_default();
        let run_hook = version.hooks.and_then(|hooks| hooks.microvm_hooks).map(|hooks| hooks.run());
        if !payload.is_empty() && run_hook != Some(proto::HookState::Enabled) {
            return Err(MicrovmError::RunHookDisabled.into());
        }
        if request.kms_key_identifier.is_some() {
            return Err(ConfigurationError::NoKeyProvider.into());
        }
        self.check_logging(request)?;
        let config = self.config();
        let ingress =
            or(&request.ingress_network_connectors, || config.connector_arn(Connector::HttpIngress));
        config.connectors(&ingress, INGRESS, true)?;
        let egress = if request.egress_network_connectors.is_empty() {
            or(&version.egress_network_connectors, || config.connector_arn(Connector::InternetEgress))
        } else {
            request.egress_network_connectors.clone()
        };
        let [connector] = config.connectors(&egress, EGRESS, false)?[..] else {
            return Err(NameError::ConnectorsTooMany { field: EGRESS }.into());
        };
        let now = self.clock().timestamp();
        let id = MicrovmId::with_uuid(Uuid::new_v4()).to_string();
        let (log_group, log_stream) =
            self.log_of(request, &source.image.name, &version.image_version, &id, self.clock().now());
        let memory = version.resources.first().and_then(|resources| resources.minimum_memory_in_mib);
        let microvm = proto::Microvm {
            microvm_id: id,
            state: proto::MicrovmState::Pending.into(),
            endpoint: format!("{}.{}", Uuid::new_v4(), config.endpoint_domain),
            image_arn: config.image_arn(&source.image.account, &source.image.name),
            image_version: ImageVersion::from(source.version.number).to_string(),
            execution_role_arn: request.execution_role_arn.clone(),
            idle_policy: request.idle_policy,
            maximum_duration_in_seconds: request
                .maximum_duration_in_seconds
                .unwrap_or(config.default_maximum_duration_seconds),
            started_at: Some(now),
            terminated_at: None,
            state_reason: None,
            ingress_network_connectors: ingress,
            egress_network_connectors: egress,
            kms_key_identifier: None,
        };
        Ok(MicrovmRecord {
            account: source.image.account.clone(),
            microvm: Some(microvm),
            phase: Phase::Launching.into(),
            image_name: source.image.name.clone(),
            build_id: source.build_id.clone(),
            memory_mib: memory.and_then(|mib| u32::try_from(mib).ok()).unwrap_or(MemoryClass::DEFAULT.mib()),
            hooks: version.hooks,
            run_hook_payload: payload,
            logging: request.logging.clone(),
            log_group,
            log_stream,
            phase_since: Some(now),
            internet_egress: connector == Connector::InternetEgress,
            image_uid: source.image.uid.clone(),
            version_number: source.version.number,
            ..MicrovmRecord::default()
        })
    }

    /// Refuses a log for a microVM without a role, in the profile that goes by what AWS does.
    fn check_logging(&self, request: &proto::RunMicrovmRequest) -> Result<(), MicrovmError> {
        let logging = request.logging.as_ref().and_then(|logging| logging.logging.as_ref());
        let to_log = matches!(logging, Some(proto::logging::Logging::CloudWatch(_)));
        let strict = self.config().profile == Profile::AwsStrict;
        match to_log && strict && request.execution_role_arn.is_none() {
            true => Err(MicrovmError::LoggingWithoutRole),
            false => Ok(()),
        }
    }

    /// Log group and log stream of a microVM; empty if its output is discarded.
    fn log_of(
        &self,
        request: &proto::RunMicrovmRequest,
        image: &str,
        version: &str,
        id: &str,
        now: SystemTime,
    ) -> (String, String) {
        use proto::logging::Logging;
        let given = match request.logging.as_ref().and_then(|logging| logging.logging.as_ref()) {
            Some(Logging::Disabled(_)) => return (String::new(), String::new()),
            Some(Logging::CloudWatch(given)) => given.clone(),
            // AWS writes no log without a role that permits it.
            None if self.config().profile == Profile::AwsStrict && request.execution_role_arn.is_none() => {
                return (String::new(), String::new());
            }
            None => proto::CloudWatchLogging::default(),
        };
        (
            given.log_group.unwrap_or_else(|| logs::default_group(image)),
            given.log_stream.unwrap_or_else(|| logs::default_stream(now, version, id)),
        )
    }
}

/// The list, or a list of the default if it is empty.
fn or(list: &[String], default: impl FnOnce() -> String) -> Vec<String> {
    if list.is_empty() { vec![default()] } else { list.to_vec() }
}
